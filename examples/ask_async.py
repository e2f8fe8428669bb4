"""Questions and answers between coroutines, or processes: whoever put an event can wait for its result.

    $ python examples/ask_async.py
    square of 3 is 9
    square of 4 is 16
    square of 5 is 25
    square of 'six': TypeError

Everything that can block has an awaitable twin of the same name under `.aio`; nothing blocks the event loop.
"""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

import eventq


async def answer(questions: eventq.Queue[Any]) -> None:
    """Three of these run at once; each event goes to one of them."""
    async for claim in questions.aio.claims():
        async with claim as event:
            if not isinstance(event.payload, int):
                await claim.aio.reject(TypeError(f"a number was expected, not {event.payload!r}"))
                continue
            await asyncio.sleep(0.01)  # stands for a slow look-up
            await claim.aio.complete(event.payload**2)


async def ask(app: eventq.App, questions: eventq.Queue[Any], number: object) -> str:
    handle = app.handle(await questions.aio.put(number))
    try:
        return f"square of {number!r} is {await handle.aio.result(timeout=10)}"
    except eventq.TaskFailed as error:
        return f"square of {number!r}: {error.failure.type if error.failure else 'failed'}"


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, eventq.App(folder) as app:
        questions = app.queue("questions")
        answering = [asyncio.create_task(answer(questions)) for _ in range(3)]
        for line in await asyncio.gather(*(ask(app, questions, number) for number in (3, 4, 5, "six"))):
            print(line)
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
