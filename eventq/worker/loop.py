"""The event loop on which a worker runs its async tasks, in a thread of its own.

What goes in and out is handed over in batches: whoever finds the other side asleep wakes it, once for all that has
piled up.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from eventq.model import Outcome
    from eventq.run import Run

log: logging.Logger = logging.getLogger("eventq.worker")


class Loop:
    """Runs coroutines for a worker; `on_finished` is called, on the loop, when there are new ones in `finished`."""

    def __init__(self, on_finished: Callable[[], None]) -> None:
        self.finished: deque[tuple[Run, Outcome]] = deque()
        """Runs that are over, to be settled by a thread that may block."""
        self.count: int = 0
        """How many runs were handed in and have not been taken out of `finished`."""
        self._on_finished = on_finished
        self._inbox: deque[Run] = deque()
        self._called = False
        self._telling = False
        self._running: dict[Run, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def submit(self, run: Run) -> None:
        """Run the coroutine of a task, once `hand_over` is called."""
        self.count += 1
        self._inbox.append(run)

    def hand_over(self) -> None:
        """Let the loop begin with what was submitted: all of it for one wake."""
        if self._inbox and not self._called:
            self._called = True
            (self._loop or self._start()).call_soon_threadsafe(self._take_in)

    def take_finished(self) -> tuple[Run, Outcome] | None:
        """One run that is over, and what that leads to."""
        try:
            done = self.finished.popleft()
        except IndexError:
            return None
        self.count -= 1
        return done

    def cancel(self, run: Run) -> None:
        """Cancel a run; `run.stopped` says why. What it makes of it comes with `finished`."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel, run)

    def stop(self) -> None:
        """End the loop and its thread. What still runs there is cancelled, and its outcome lost."""
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _start(self) -> asyncio.AbstractEventLoop:
        from asyncio import new_event_loop

        self._loop = loop = new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(loop,), name="eventq-loop", daemon=True)
        self._thread.start()
        return loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        from asyncio import all_tasks, gather, set_event_loop

        set_event_loop(loop)
        try:
            loop.run_forever()
            rest = all_tasks(loop)
            for task in rest:
                task.cancel()
            loop.run_until_complete(gather(*rest, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def _take_in(self) -> None:
        self._called = False  # first: who hands in from here on calls again
        assert self._loop is not None
        while self._inbox:
            run = self._inbox.popleft()
            self._running[run] = self._loop.create_task(self._carry_out(run), name=run.task.name)

    async def _carry_out(self, run: Run) -> None:
        from asyncio import CancelledError

        outcome = run.raised(CancelledError()) if run.stopped else await run.call_async()
        del self._running[run]
        self.finished.append((run, outcome))
        if not self._telling:
            self._telling = True
            assert self._loop is not None
            self._loop.call_soon(self._tell)  # after all that ends in this turn of the loop

    def _tell(self) -> None:
        self._telling = False
        self._on_finished()

    def _cancel(self, run: Run) -> None:
        """In the next turn of the loop: a coroutine that has not begun yet would end without an outcome."""
        assert self._loop is not None
        self._loop.call_soon(self._cancel_begun, run)

    def _cancel_begun(self, run: Run) -> None:
        if run in self._running:
            self._running[run].cancel()
