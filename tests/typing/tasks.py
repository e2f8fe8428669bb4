"""What type checkers see of tasks. Checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, assert_type

from eventq import App, Context, Handle, Middleware, Worker, WorkerStats
from eventq.stream import StreamHandle
from eventq.task import AsyncGeneratorTask, CoroutineTask, GeneratorTask
from eventq.testing import EnqueuedCall, Ran, assert_enqueued, enqueued, inline, isolated, run_until_empty

app = App()


@app.task
def bare(path: str, width: int = 128) -> str:
    return f"{path} {width}"


@app.task(max_attempts=3, timeout=30, retry_for=(OSError, KeyError), retry_delay=[1, 5.0])
def with_options(path: str, *, width: int = 128) -> str | None:
    return path or str(width)


@app.task(bind=True, queue="mail")
def bound(context: Context, user: str) -> int:
    return context.attempt


@app.task
async def later(user: str) -> int:
    return len(user)


@app.task(bind=True)
async def bound_later(context: Context, user: str) -> int:
    return context.attempt


@app.task
def numbers(count: int) -> Iterator[int]:
    yield from range(count)


@app.task(name="n")
async def numbers_later(count: int) -> AsyncIterator[int]:
    yield count


# ---- enqueue takes what the function takes

assert_type(bare.enqueue("cat.png", width=64), Handle[str])
assert_type(bare.enqueue("cat.png").result(timeout=1), str)
bare.enqueue(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
bare.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
bare.enqueue("cat.png", colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
bare.enqueue("cat.png", 1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
assert_type(with_options.enqueue("cat.png", width=1), Handle[str | None])
with_options.enqueue("cat.png", 64)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

assert_type(bound.enqueue("ann"), Handle[int])
bound.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
bound.enqueue(Context(app, "x"), "ann")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]

assert_type(later.enqueue("ann"), Handle[int])
assert_type(bound_later.enqueue("ann"), Handle[int])

# ---- calling it runs it here

assert_type(bare("cat.png"), str)
assert_type(bound("ann"), int)
coroutine: Coroutine[Any, Any, int] = later("ann")
assert_type(numbers(5), Iterator[int])
assert_type(numbers_later(5), AsyncIterator[int])
bare(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# ---- kinds

later_task: CoroutineTask[[str], int] = later
generator_task: GeneratorTask[[int], int] = numbers
async_generator_task: AsyncGeneratorTask[[int], int] = numbers_later

# ---- options

assert_type(bare.using(delay=60, key="cat", priority=3).enqueue("cat.png"), Handle[str])
bare.using(retries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
bare.using(delay="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
bare.using(retry_for=OSError)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
app.task(retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
app.task(backoff="quadratic")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]

assert_type(app.task_named("shop.thumbnail", priority=5).enqueue("anything", at=5), Handle[Any])

# ---- to workers

assert_type(bare.using(worker="5d1c0f8a9b7e6d3c").enqueue("cat.png"), Handle[str])
assert_type(bare.broadcast("cat.png", width=64), list[Handle[str]])
assert_type(numbers.broadcast(5), list[StreamHandle[int]])
bare.broadcast(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
bare.using(worker=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
app.task(worker="5d1c0f8a9b7e6d3c")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
assert_type(app.ping(timeout=2), list[WorkerStats])
assert_type(app.worker().stats().runs[0].seconds, float)

# ---- streams

assert_type(numbers.enqueue(5), StreamHandle[int])
for value in numbers.enqueue(5):
    assert_type(value, int)
for value in numbers_later.enqueue(5).stream(start=2, timeout=1):
    assert_type(value, int)

# ---- async


async def main() -> None:
    assert_type(await bare.aio.enqueue("cat.png", width=64), Handle[str])
    assert_type(await bare.aio.broadcast("cat.png"), list[Handle[str]])
    assert_type(await app.aio.ping("5d1c0f8a9b7e6d3c"), list[WorkerStats])
    await bare.aio.enqueue(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await later("ann"), int)
    async for value in numbers.enqueue(5).stream().aio:
        assert_type(value, int)


# ---- workers and hooks

assert_type(app.worker({"mail": 3, "bulk": 1}, concurrency=8, executor="thread"), Worker)
assert_type(app.worker(["mail"]).run(burst=True), int)
app.worker(executor="fibre")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Diary(Middleware):
    def on_failure(self, context: Context, error: BaseException) -> None:
        print(context.task, error)


app.use(Diary())
app.use(Diary)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
app.on("on_success", print)

# ---- testing

assert_type(run_until_empty(app), list[Ran])
assert_type(enqueued(app, bare), list[EnqueuedCall])
assert_type(assert_enqueued(app, bare, "cat.png", width=64), EnqueuedCall)
with inline(app) as ran, isolated(app) as same:
    assert_type(ran, list[Ran])
    assert_type(same, App)
