"""A pipeline over real files: tasks count the words of each, and more tasks merge the counts, on two processes.

    $ python examples/index_texts.py
    ... files counted by 2 worker processes, merged in ... parts
    ... words, ... different ones; most often: ...
    the same as a plain loop: True

It reads the standard library's own modules, or the `*.py` files of a folder: `python examples/index_texts.py FOLDER`.
The counts stay in the store, so a call that merges them is given only the ids of the calls that made them.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import eventq

if __name__ == "__main__":  # a store for this run alone, which its workers inherit
    room = tempfile.TemporaryDirectory()
    os.environ.setdefault("EVENTQ_URL", room.name)

app = eventq.App()


@app.task
def count_words(path: str) -> dict[str, int]:
    text = Path(path).read_text("utf-8", "replace")
    return dict(Counter(re.findall(r"[^\W\d_]+", text.lower())))


@app.task(concurrency=4)  # over all processes: they wait for counts, and must leave room for those that make them
def merge(ids: list[str]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for event_id in ids:
        total.update(app.handle(event_id, dict[str, int]).result(timeout=60))
    return dict(total)


@contextmanager
def workers(number: int) -> Iterator[None]:
    """In real life these run all the time, started by the system."""
    command = [sys.executable, "-m", "eventq", "worker", f"{__file__}:app", "--processes", str(number)]
    supervisor = subprocess.Popen([*command, "--log-level", "warning"])
    try:
        yield
    finally:
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait()


def main(folder: Path) -> None:
    paths = sorted(str(path) for path in folder.glob("*.py"))
    with workers(2):
        counts = [count_words.enqueue(path).id for path in paths]
        parts = [merge.enqueue(counts[start : start + 20]) for start in range(0, len(counts), 20)]
        total = Counter(merge.enqueue([part.id for part in parts]).result(timeout=60))
    print(f"{len(paths)} files counted by 2 worker processes, merged in {len(parts)} parts")
    often = " ".join(word for word, _ in total.most_common(5))
    print(f"{total.total()} words, {len(total)} different ones; most often: {often}")

    plain: Counter[str] = Counter()
    for path in paths:
        plain.update(count_words(path))  # still a plain function
    print("the same as a plain loop:", total == plain)


if __name__ == "__main__":
    with room, app:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(os.__file__).parent)
