"""Tasks: functions that workers run. One file for those who call them, and for those who run them.

    $ python examples/shop_tasks.py
    thumbnail of cat.png, 64 wide
    thumbnail of dog.png, 128 wide
    an order of 3 for 29.97
    bad.png failed: ValueError: bad.png is no picture

In real life the worker is a process, or several, of its own:

    eventq worker examples/shop_tasks.py:app --processes 2
    eventq call shop_tasks.thumbnail owl.png 64 --wait
"""

from __future__ import annotations

import threading

import msgspec

import eventq

app = eventq.App()  # the store that EVENTQ_URL names, else ./.eventq


class Order(msgspec.Struct):
    price: float
    number: int = 1


@app.task(max_attempts=2, retry_delay=0)
def thumbnail(path: str, width: int = 128) -> str:
    if path.startswith("bad"):
        raise ValueError(f"{path} is no picture")
    return f"thumbnail of {path}, {width} wide"


@app.task
async def total(order: Order) -> str:
    return f"an order of {order.number} for {order.number * order.price:.2f}"


def main() -> None:
    worker = app.worker()
    thread = threading.Thread(target=worker.run)
    thread.start()

    handles = [thumbnail.enqueue("cat.png", width=64), thumbnail.enqueue("dog.png"), total.enqueue(Order(9.99, 3))]
    bad = thumbnail.enqueue("bad.png")
    for handle in handles:
        print(handle.result(timeout=30))
    try:
        bad.result(timeout=30)
    except eventq.TaskFailed as error:
        assert error.failure is not None
        print(f"bad.png failed: {error.failure.type}: {error.failure.message}")

    worker.stop()
    thread.join()
    app.close()


if __name__ == "__main__":
    main()
