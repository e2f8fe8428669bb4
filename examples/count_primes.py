"""Work for the processor goes to child processes, one for each core; one that takes too long is killed.

    $ python examples/count_primes.py
    the last part: 25%
    the last part: 50%
    the last part: 75%
    the last part: 100%
    49098 primes below 600000, as in a single process: True
    ... child processes, ... times as fast, their start included
    the endless search: the run took longer than 1.0 s, and its process was killed

A thread that hangs cannot be ended from outside. A process can, whatever it does, with all that it has started.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import eventq

if __name__ == "__main__":  # a store for this run alone, which its children inherit
    room = tempfile.TemporaryDirectory()
    os.environ.setdefault("EVENTQ_URL", room.name)

app = eventq.App()
LIMIT, PARTS = 600_000, 8


@app.task(executor="process", bind=True)
def count_primes(context: eventq.Context, start: int, stop: int) -> int:
    count, step = 0, (stop - start) // 4
    for quarter in range(4):
        begin = start + quarter * step
        count += sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(max(2, begin), begin + step))
        context.progress(quarter + 1, 4)
    return count


@app.task(executor="process", timeout=1, max_attempts=1)
def find_largest_prime() -> int:
    number = 2
    while True:
        number += 1


def followed(handle: eventq.Handle[Any]) -> Iterator[str]:
    """What the run says of its progress, as it comes."""
    last, ended = 0, False
    while not ended:
        ended = handle.wait(timeout=0.1)
        for note in handle.notes(after=last):
            last = note.number
            if note.kind == "progress":
                yield f"{note.value['done'] / note.value['total']:.0%}"


def main() -> None:
    processes = os.cpu_count() or 1
    worker = app.worker(concurrency=processes)
    thread = threading.Thread(target=worker.run)
    thread.start()

    began, step = time.perf_counter(), LIMIT // PARTS
    parts = [count_primes.enqueue(start, start + step) for start in range(0, LIMIT, step)]
    for done in followed(parts[-1]):
        print("the last part:", done)
    total = sum(part.result(timeout=60) for part in parts)
    together = time.perf_counter() - began

    began = time.perf_counter()
    alone = count_primes(0, LIMIT)  # here, in this process
    speed_up = (time.perf_counter() - began) / together
    print(f"{total} primes below {LIMIT}, as in a single process: {total == alone}")
    print(f"{processes} child processes, {speed_up:.1f} times as fast, their start included")

    try:
        find_largest_prime.enqueue().result(timeout=60)
    except eventq.TaskFailed as error:
        assert error.failure is not None
        print("the endless search:", error.failure.message)
    worker.stop()
    thread.join()


if __name__ == "__main__":
    with room, app:
        main()
