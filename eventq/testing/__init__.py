"""For tests: of programs that use eventq, and of storages.

Tests of tasks need no worker, no files and no waiting. `eventq_isolated` puts your own app on an empty store in memory
(with `isolated(app)` any test framework can do so), and everything goes the way it does in production: arguments are
checked and encoded, claimed, decoded, run and settled.

    from eventq.testing import assert_enqueued, inline, run_until_empty
    from shop import app, remind, signup, welcome

    def test_signup(eventq_isolated):
        eventq_isolated(app)
        signup("ann")
        assert_enqueued(app, welcome, "ann")
        run_until_empty(app)                    # also what is delayed or retried: the clock is moved, nothing sleeps

    def test_at_once(eventq_isolated):
        eventq_isolated(app)
        with inline(app):                       # enqueue() runs it, and raises what it raises
            signup("ann")

What there is, each imported when first used:

    run_until_empty(app)            run all that waits and what follows from it, in this thread; see `Ran`
    inline(app)                     run each call when it is enqueued
    enqueued(app, task)             the calls that wait; assert_enqueued, assert_not_enqueued
    isolated(app)                   your app on an empty store in memory, and back
    FakeClock                       a clock to move by hand: App(..., clock=FakeClock())
    StorageConformance              the suite that decides whether something is a storage; needs pytest

Fixtures of the pytest plugin, which is there once eventq is installed: `eventq_app` (an app in memory), `eventq_files`
(one on files), `eventq_clock` (their `FakeClock`), `eventq_isolated`. Importing this module needs only eventq.

    class TestMyStorage(StorageConformance):
        @pytest.fixture
        def open_worker(self, tmp_path):
            return lambda: MyStorage(tmp_path)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from eventq.testing.clock import FakeClock

if TYPE_CHECKING:
    from eventq.testing.burst import Ran, inline, run_until_empty
    from eventq.testing.calls import EnqueuedCall, assert_enqueued, assert_not_enqueued, enqueued
    from eventq.testing.conformance import StorageConformance
    from eventq.testing.isolation import isolated

__all__ = [
    "EnqueuedCall",
    "FakeClock",
    "Ran",
    "StorageConformance",
    "assert_enqueued",
    "assert_not_enqueued",
    "enqueued",
    "inline",
    "isolated",
    "run_until_empty",
]

MODULES = {
    "EnqueuedCall": "calls",
    "Ran": "burst",
    "StorageConformance": "conformance",
    "assert_enqueued": "calls",
    "assert_not_enqueued": "calls",
    "enqueued": "calls",
    "inline": "burst",
    "isolated": "isolation",
    "run_until_empty": "burst",
}
"""Where each name is, below this package."""


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(importlib.import_module(f"eventq.testing.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
