"""The pytest plugin: fixtures for programs that use eventq. It is there once eventq is installed.

    def test_signup_sends_a_mail(eventq_isolated):
        eventq_isolated(shop.app)
        shop.signup("ann")
        assert_enqueued(shop.app, shop.welcome, "ann")
        run_until_empty(shop.app)
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from eventq import App
    from eventq.testing import FakeClock


@pytest.fixture
def eventq_clock() -> FakeClock:
    """The `FakeClock` of the other fixtures: time stands still until the test moves it."""
    from eventq.testing import FakeClock

    return FakeClock()


@pytest.fixture
def eventq_app(eventq_clock: FakeClock) -> Iterator[App]:
    """A new app on an empty store in memory, with the time of `eventq_clock`."""
    from eventq import App

    with App("memory://", clock=eventq_clock) as app:
        yield app


@pytest.fixture
def eventq_files(tmp_path: Path, eventq_clock: FakeClock) -> Iterator[App]:
    """A new app on an empty file store in `tmp_path`, with the time of `eventq_clock`."""
    from eventq import App

    with App(str(tmp_path / "eventq"), sync=False, clock=eventq_clock) as app:
        yield app


@pytest.fixture
def eventq_isolated(eventq_clock: FakeClock) -> Iterator[Callable[[App], App]]:
    """A function that puts an app of yours on an empty store in memory until the test ends: see `isolated`."""
    from eventq.testing import isolated

    with ExitStack() as stack:
        yield lambda app: stack.enter_context(isolated(app, eventq_clock))
