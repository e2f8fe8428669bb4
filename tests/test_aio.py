"""The async side: the same names, waiting on the loop, and nothing lost when an await is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from eventq import App, Claim, ClaimLost, Queue, QueueFull, Retry, State, StorageClosed, TaskFailed
from eventq.bridge import Bridge, readable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator


@pytest.fixture
def app(url: str) -> Iterator[App]:
    with App(url) as app:
        yield app


@pytest.fixture
def queue(app: App) -> Queue[Any]:
    return app.queue("orders")


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """`asyncio.run` in debug mode, which complains of calls from wrong threads, within a minute."""
    return asyncio.run(asyncio.wait_for(main, 60), debug=True)


class Door:
    """Holds calls of a storage method open: a test sees that one has begun, and decides when it goes on."""

    def __init__(self, method: Callable[..., Any], *, after: bool) -> None:
        self.method = method
        self.after = after
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.method(*args, **kwargs) if self.after else None
        self.entered.set()
        assert self.open.wait(60)
        return result if self.after else self.method(*args, **kwargs)


async def until(fact: Callable[[], Any]) -> None:
    """A bounded wait on a fact."""
    async with asyncio.timeout(20):
        while not fact():  # noqa: ASYNC110 - facts of other threads, which set no event of this loop
            await asyncio.sleep(0.005)


# ---------------------------------------------------------------- the same, awaited


def test_an_event_goes_through(queue: Queue[Any]) -> None:
    async def main() -> None:
        id = await queue.aio.put({"sku": 7}, headers={"user": "ann"})
        assert await queue.aio.put_many([1, 2]) != [id]
        claim = await queue.aio.claim()
        assert claim is not None
        async with claim as event:
            assert (event.id, event.payload, event.headers) == (id, {"sku": 7}, {"user": "ann"})
            await claim.aio.progress(1, 2)
        assert claim.settled
        claims = await queue.aio.claim_many(5)
        assert [claim.event.payload for claim in claims] == [1, 2]
        await claims[0].aio.complete("value")
        await claims[1].aio.reject("no")
        handle = queue.handle(claims[0].id)
        assert await handle.aio.result(timeout=5) == "value"
        assert await handle.aio.status() is State.COMPLETED
        assert await handle.aio.ready()
        with pytest.raises(TaskFailed):
            await queue.handle(claims[1].id).aio.result()
        assert (await queue.aio.stats()).dead == 1

    run(main())


def test_a_put_waits_for_room_on_the_loop(queue: Queue[Any]) -> None:
    queue.configure(maxsize=1)

    async def main() -> None:
        await queue.aio.put("there", timeout=0)
        for refused in (queue.aio.put("x", timeout=0.01), queue.aio.put_many(["x"], timeout=0)):
            with pytest.raises(QueueFull):
                await refused
        with pytest.raises(QueueFull, match="never fit"):
            await queue.aio.put_many(["x", "y"])
        for late in (queue.aio.put("late"), queue.aio.put_many(iter(["late"]), timeout=20)):
            waits = asyncio.create_task(late)
            done, _ = await asyncio.wait({waits}, timeout=0.05)
            assert not done
            claim = await queue.aio.claim()
            assert claim is not None
            await claim.aio.complete()
            await asyncio.wait_for(waits, 20)
        assert queue.stats().ready == 1

    run(main())


def test_a_whole_worker(queue: Queue[Any]) -> None:
    async def main() -> list[int]:
        await queue.aio.put_many(range(20))
        done = []
        async for claim in queue.aio.claims(timeout=0):
            async with claim as event:
                done.append(event.payload)
        return done

    assert run(main()) == list(range(20))
    assert queue.stats().claimed == 0


def test_how_blocks_end(queue: Queue[Any]) -> None:
    async def main() -> None:
        a, b, c = await queue.aio.put_many(["a", "b", "c"])
        first, second, third = await queue.aio.claim_many(3)
        async with first:
            raise ZeroDivisionError
        async with second:
            raise Retry(60)
        with pytest.raises(KeyboardInterrupt):
            async with third:
                raise KeyboardInterrupt
        states = [record.state for id in (a, b, c) if (record := await queue.aio.get(id)) is not None]
        assert states == [State.DELAYED, State.DELAYED, State.READY]
        with pytest.raises(ClaimLost):
            await first.aio.complete()

    run(main())


def test_a_cancelled_handler_releases(queue: Queue[Any]) -> None:
    async def main() -> None:
        id = await queue.aio.put("x")
        inside = asyncio.Event()

        async def handle() -> None:
            claim = await queue.aio.claim()
            assert claim is not None
            async with claim:
                inside.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(handle())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        record = await queue.aio.get(id)
        assert record is not None
        assert (record.state, record.failures) == (State.READY, 0)

    run(main())


def test_a_coroutine_that_is_closed_releases(queue: Queue[Any]) -> None:
    id = queue.put("x")
    claim = queue.claim()
    assert claim is not None

    async def handle() -> None:
        async with claim:
            await asyncio.sleep(0)

    running = handle()
    running.send(None)
    running.close()
    record = queue.get(id)
    assert record is not None
    assert record.state is State.READY


def test_follow_ups_carry_headers_in_each_coroutine(app: App) -> None:
    queue, out = app.queue("q"), app.queue("out")

    async def handle(claim: Claim[Any], barrier: asyncio.Barrier) -> None:
        async with claim as event:
            await barrier.wait()  # all are inside now
            await out.aio.put(event.id)
        await out.aio.put("outside")

    async def main() -> None:
        await queue.aio.put_many(range(3))
        claims, barrier = await queue.aio.claim_many(3), asyncio.Barrier(3)
        await asyncio.gather(*(handle(claim, barrier) for claim in claims))
        for claim in await out.aio.claim_many(10):
            expected = {} if claim.event.payload == "outside" else {"correlation_id": claim.event.payload}
            assert claim.event.headers == expected

    run(main())


def test_the_app(app: App) -> None:
    async def main() -> None:
        queue = await app.aio.queue("q", max_attempts=7)
        assert queue.settings().max_attempts == 7
        id = await queue.aio.put(1)
        assert await app.aio.queues() == ["q"]
        assert (await app.aio.get_many([id]))[0] == await app.aio.get(id)
        assert await app.aio.cancel(id) == "cancelled"
        assert await app.aio.claim_name("n", 5)
        taken = await app.aio.get_name("n")
        assert taken is not None
        assert await app.aio.names() == [taken]
        assert await app.aio.release_name("n")
        assert await queue.aio.claim() is None
        assert len(await app.aio.workers()) == 1
        await app.aio.close()
        with pytest.raises(StorageClosed):
            await app.aio.queues()

    run(main())


def test_changing_a_queue(app: App) -> None:
    async def main() -> None:
        queue = app.queue("q").aio
        a, b, c = await queue.put_many(["a", "b", "c"])
        assert (await queue.configure(keep=5)).keep == 5
        assert (await queue.settings()).keep == 5
        await queue.pause()
        await queue.resume()
        assert await queue.cancel(a) == ["cancelled"]
        assert await queue.retry(a) == [a]
        assert await queue.move(b, "other") == ["moved"]
        assert await queue.remove(c) == ["deleted"]
        assert [record.id for record in (await queue.scan()).records] == [a]
        assert await queue.purge() == 1
        assert await queue.prune() == 0
        await queue.delete()
        assert await app.aio.queues() == ["other"]

    run(main())


def test_locks(url: str) -> None:
    async def main() -> None:
        with App(url) as mine, App(url) as theirs:
            async with mine.lock("x"):
                assert not await theirs.lock("x").aio.acquire(timeout=0.05)
            other = theirs.lock("x")
            assert await other.aio.acquire(timeout=20)
            await other.aio.release()
            async with mine.semaphore("s", 2), theirs.semaphore("s", 2):
                assert not await mine.semaphore("s", 2).aio.acquire(0)

    run(main())


# ---------------------------------------------------------------- waiting


def test_waiting_for_an_event_takes_no_thread(url: str) -> None:
    async def main() -> None:
        with App(url) as app, App(url) as other:
            queue = app.queue("q")
            waiting = [asyncio.create_task(queue.aio.claim(timeout=30)) for _ in range(40)]
            handles = [app.handle(id) for id in await app.queue("busy").aio.put_many(range(40))]
            results = [asyncio.create_task(handle.aio.result(timeout=30)) for handle in handles]
            await until(lambda: threading.active_count() > 1)
            assert await asyncio.wait_for(queue.aio.stats(), 20), "the threads are free for calls"
            other.queue("q").put_many(range(40))
            claims = await asyncio.gather(*waiting)
            payloads = [claim.event.payload for claim in claims if claim is not None]
            assert sorted(payloads) == list(range(40))
            for claim in other.queue("busy").claim_many(40):
                claim.complete(claim.event.payload)
            assert await asyncio.gather(*results) == list(range(40))

    run(main())


def test_timeouts(queue: Queue[Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        assert await queue.aio.claim(timeout=0.15) is None
        assert 0.15 <= loop.time() - start < 10
        assert [claim async for claim in queue.aio.claims(timeout=0.05)] == []
        handle = queue.handle(await queue.aio.put("x"))
        assert not await handle.aio.wait(timeout=0.05)
        with pytest.raises(TimeoutError):
            await handle.aio.result(timeout=0)

    run(main())


def test_the_loop_goes_on_while_a_call_blocks(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = app.store.storage
    door = Door(storage.stats, after=False)
    monkeypatch.setattr(storage, "stats", door)

    async def main() -> None:
        call = asyncio.create_task(app.queue("q").aio.stats())
        await until(door.entered.is_set)  # the loop runs while the call hangs
        door.open.set()
        assert (await call).ready == 0

    run(main())


def test_readable() -> None:
    async def main() -> None:
        reader, writer = os.pipe()
        try:
            assert not await readable(reader, 0.01)
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            assert await readable(reader, 20)
            assert await readable(reader, 20), "the byte is still there"
        finally:
            os.close(reader)
            os.close(writer)

    run(main())


# ---------------------------------------------------------------- cancelled awaits


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_claim_that_was_made_for_a_cancelled_await_is_released(
    app: App, queue: Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = app.store.storage
    id = queue.put("x")
    door = Door(storage.claim, after=True)

    def state() -> State | None:
        record = queue.get(id)
        return None if record is None else record.state

    async def main() -> None:
        monkeypatch.setattr(storage, "claim", door)
        task = asyncio.create_task(queue.aio.claim(timeout=30))
        await until(door.entered.is_set)  # claimed, and not yet told
        assert state() is State.CLAIMED
        await cancel(task)
        door.open.set()
        await until(lambda: state() is State.READY)
        monkeypatch.undo()
        claim = await queue.aio.claim()
        assert claim is not None
        assert claim.event.attempt == 1
        await claim.aio.complete()

    run(main())


@pytest.mark.parametrize("resumed", [False, True], ids=["not told", "told, not resumed"])
def test_a_claim_that_arrives_with_the_cancel_is_released(queue: Queue[Any], resumed: bool) -> None:
    """The narrowest cases: the thread is done, and the await has not gone on yet."""
    id = queue.put("x")

    def state() -> State | None:
        record = queue.get(id)
        return None if record is None else record.state

    async def main() -> None:
        bridge = queue.store.bridge
        task = asyncio.create_task(queue.aio.claim(timeout=30))
        await asyncio.sleep(0)  # the call is on its way
        pool, bridge._pool = bridge._pool, None
        assert pool is not None
        pool.shutdown(wait=True)  # it is done; the loop, which stands here, has not heard of it
        assert state() is State.CLAIMED
        if resumed:
            asyncio.get_running_loop().call_soon(task.cancel)  # after the loop has heard, before the task runs
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            await cancel(task)
        await until(lambda: state() is State.READY)

    run(main())


def test_a_claim_that_may_wait_for_ever_is_not_none_when_something_falls_due_at_that_moment(
    queue: Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the sleep: there is no time to sleep then, which is not the end of the wait."""
    monkeypatch.setattr(queue.store.storage, "recover", lambda: 0.0)
    queue.put(1, delay=0.05)
    assert run(queue.aio.claim(timeout=None)) is not None


def test_cancelling_an_idle_claim_closes_its_watch(
    app: App, queue: Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = app.store.storage
    made: list[Spy] = []

    class Spy:
        """A watch that tells whether it was closed."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.watch = watch(*args, **kwargs)
            self.fileno, self.clear = self.watch.fileno, self.watch.clear
            self.closed = False
            made.append(self)

        def close(self) -> None:
            self.watch.close()
            self.closed = True

    watch = storage.watch
    monkeypatch.setattr(storage, "watch", Spy)

    async def main() -> None:
        for number in range(3):
            task = asyncio.create_task(queue.aio.claim(timeout=30))
            await until(lambda wanted=number: len(made) > wanted)  # type: ignore[misc]
            await cancel(task)
        await until(lambda: all(spy.closed for spy in made))
        await queue.aio.put("x")
        claim = await queue.aio.claim(timeout=20)
        assert claim is not None
        await claim.aio.complete()

    run(main())


def test_leaving_an_async_loop_gives_the_rest_back(url: str) -> None:
    async def main() -> None:
        with App(url) as mine, App(url) as theirs:
            await mine.queue("q").aio.put_many(range(10))
            async with contextlib.aclosing(mine.queue("q").aio.claims()) as claims:
                async for claim in claims:
                    async with claim:
                        break
            rest = await theirs.queue("q").aio.claim_many(20)
            assert [claim.event.payload for claim in rest] == list(range(1, 10))

    run(main())


def test_a_lock_taken_for_a_cancelled_await_is_given_back(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = app.store.storage
    door = Door(storage.take_slot, after=True)

    async def main() -> None:
        monkeypatch.setattr(storage, "take_slot", door)
        lock = app.lock("x")
        task = asyncio.create_task(lock.aio.acquire())
        await until(door.entered.is_set)
        await cancel(task)
        door.open.set()
        monkeypatch.undo()
        assert await app.lock("x").aio.acquire(timeout=20)
        assert not lock.held

    run(main())


# ---------------------------------------------------------------- the bridge itself


def test_errors_come_through() -> None:
    async def main() -> None:
        bridge = Bridge()
        with pytest.raises(ZeroDivisionError):
            await bridge.call(divmod, 1, 0)
        assert await bridge.call(int, "ff", base=16) == 255
        bridge.close()
        bridge.close()
        with pytest.raises(StorageClosed):
            await bridge.call(int)

    run(main())


def test_nothing_is_undone_that_failed() -> None:
    async def main() -> None:
        bridge, undone = Bridge(), list[Any]()
        started, go = threading.Event(), threading.Event()

        def fail() -> None:
            started.set()
            go.wait(60)
            raise ValueError("nothing taken")

        task = asyncio.create_task(bridge.take(undone.append, fail))
        await until(started.is_set)
        await cancel(task)
        go.set()
        assert await bridge.call(lambda: 5) == 5
        bridge.close()
        assert undone == []

    run(main())


def test_what_was_taken_is_undone_even_after_the_close() -> None:
    async def main() -> None:
        bridge, undone = Bridge(), threading.Event()
        started, go = threading.Event(), threading.Event()

        def take() -> threading.Event:
            started.set()
            go.wait(60)
            return undone

        task = asyncio.create_task(bridge.take(threading.Event.set, take))
        await until(started.is_set)
        await cancel(task)
        bridge.close()
        go.set()
        assert await asyncio.to_thread(undone.wait, 20)

    run(main())


def test_a_forked_child_gets_threads_of_its_own() -> None:
    bridge = Bridge()

    async def call() -> int:
        return await bridge.call(os.getpid)

    assert run(call()) == os.getpid()
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if asyncio.run(asyncio.wait_for(call(), 20)) == os.getpid() else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    bridge.close()


def test_every_async_method_is_a_coroutine_or_iterates() -> None:
    for view in (type(App("memory://").aio), type(App("memory://").queue("q").aio)):
        for name, method in inspect.getmembers(view, inspect.isfunction):
            if not name.startswith("_") and name != "claims":
                assert inspect.iscoroutinefunction(method), name
