"""An app of the user's own, on an empty store in memory for the time of a test."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from eventq.storage import open_storage
from eventq.testing.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventq.app import App
    from eventq.clock import Clock


@contextmanager
def isolated(app: App, clock: Clock | None = None) -> Iterator[App]:
    """Put an app on an empty store in memory, and back in the end: `with isolated(shop.app): ...`.

    Its tasks, options, codecs and hooks stay as they are, and what was made of it before (queues, locks) is on the new
    store, too. Only the events, the settings of queues, names and the tasks' `state` objects are those of the test.
    Time stands still until `app.store.clock` (a `FakeClock`, unless another clock is given) is moved. Hooks that are
    added meanwhile stay. No worker of the app may run when it begins or ends.
    """
    store = app.store
    before = store.storage, store.clock, app._states  # noqa: SLF001 - only to be put aside, and back
    time = FakeClock() if clock is None else clock
    store.storage, store.clock = open_storage("memory://", clock=time), time
    app._states = {}  # noqa: SLF001
    try:
        yield app
    finally:
        store.storage.close()
        store.storage, store.clock, app._states = before  # noqa: SLF001
