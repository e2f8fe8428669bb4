"""A graph of tasks: one step, two that take its result side by side, and one that waits for both.

    $ python examples/diamond_graph.py
    Call me Ishmael has 3 words and 13 letters
    flowchart TD
        n0["fetch<br/>completed"]:::completed
        n1["words<br/>completed"]:::completed
        n2["letters<br/>completed"]:::completed
        n3["report<br/>completed"]:::completed
        n0 --> n1
        n0 --> n2
        n0 --> n3
        n1 --> n3
        n2 --> n3
        classDef completed fill:#d1e7dd,stroke:#666

A step that is passed to another one is its dependency, and its result takes its place. Each step is put once, and the
join runs when both branches have ended, whichever process dies meanwhile: what the run has come to is in the store.
"""

from __future__ import annotations

import os
import tempfile

import eventq

if __name__ == "__main__":  # a store for this run alone
    room = tempfile.TemporaryDirectory()
    os.environ.setdefault("EVENTQ_URL", room.name)

app = eventq.App()


@app.task
def fetch(page: int) -> str:
    return ["Call me Ishmael", "Some years ago"][page]


@app.task
def words(text: str) -> int:
    return len(text.split())


@app.task
def letters(text: str) -> int:
    return sum(letter.isalpha() for letter in text)


@app.task
def report(text: str, counts: list[int]) -> str:
    return f"{text} has {counts[0]} words and {counts[1]} letters"


def main() -> None:
    flow = app.workflow("diamond")
    text = flow.step(fetch, 0)
    flow.step(report, text, [flow.step(words, text), flow.step(letters, text)])
    run = flow.start()
    app.worker().run(burst=True)
    print(run.result(timeout=10))
    print(run.mermaid(), end="")


if __name__ == "__main__":
    with room, app:
        main()
