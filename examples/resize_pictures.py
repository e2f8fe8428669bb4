"""Several processes share one queue: each picture is resized once, by whoever is free.

    $ python examples/resize_pictures.py
    put 6 pictures
    3 processes resized 6 pictures, each once
    widths: 64 64 64 128 128 128

The processes have nothing in common but a directory. What a killed one held, the others get.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path

import msgspec

import eventq


class Picture(msgspec.Struct):
    path: str
    width: int


def resize(picture: Picture) -> str:
    """Stands for the real work."""
    return f"{Path(picture.path).stem}-{picture.width}.webp"


def work(store: str) -> None:
    with eventq.App(store) as app:
        pictures = app.queue("pictures", type=Picture)
        for claim in pictures.claims(timeout=0.5):  # leaves when it was idle for that long
            with claim as event:
                claim.complete(resize(event.payload))  # kept for an hour, for whoever asks


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, eventq.App(f"{folder}/store") as app:
        pictures = app.queue("pictures", type=Picture)
        wanted = [Picture(f"{name}.png", width) for name in ("cat", "dog", "owl") for width in (64, 128)]
        ids = pictures.put_many(wanted)
        print(f"put {len(ids)} pictures")

        processes = multiprocessing.get_context("spawn")
        workers = [processes.Process(target=work, args=(app.config.url,)) for _ in range(3)]
        for worker in workers:
            worker.start()
        names = [app.handle(event_id).result(timeout=30) for event_id in ids]
        for worker in workers:
            worker.join()

        print(f"{len(workers)} processes resized {len(set(names))} pictures, each once")
        print("widths:", *sorted((name.split("-")[1].split(".")[0] for name in names), key=int))


if __name__ == "__main__":
    main()
