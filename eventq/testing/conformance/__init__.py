"""The suite that decides whether something is a storage. Subclass it; about twenty lines in all:

    import pytest
    from eventq.testing import FakeClock, StorageConformance

    class TestMyStorage(StorageConformance):
        @pytest.fixture
        def clock(self):                      # leave it out if your storage has its own time
            return FakeClock()

        @pytest.fixture
        def open_worker(self, tmp_path, clock):
            return lambda: MyStorage(tmp_path / "store", clock=clock)

        @pytest.fixture
        def kill(self):                       # leave it out if there is no way: those tests are skipped
            return MyStorage.abandon

Each test gets a new store; `open_worker` opens one more worker on it each time it is called. A test's name is the
sentence of the contract (`eventq.storage.base`) that it holds; its workers are closed for you.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from eventq.storage.base import Storage
from eventq.testing.clock import FakeClock

_PARTS = (
    "claims", "deaths", "edits", "keys", "limits", "presence", "puts", "rates", "records", "restores", "scene",
    "settings", "settles",
)  # fmt: skip
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))

from eventq.testing.conformance.claims import ClaimRules  # noqa: E402 - after asserts are told to explain themselves
from eventq.testing.conformance.deaths import DeathRules  # noqa: E402
from eventq.testing.conformance.edits import EditRules  # noqa: E402
from eventq.testing.conformance.keys import KeyRules  # noqa: E402
from eventq.testing.conformance.limits import LimitRules  # noqa: E402
from eventq.testing.conformance.presence import PresenceRules  # noqa: E402
from eventq.testing.conformance.puts import PutRules  # noqa: E402
from eventq.testing.conformance.rates import RateRules  # noqa: E402
from eventq.testing.conformance.records import RecordRules  # noqa: E402
from eventq.testing.conformance.restores import RestoreRules  # noqa: E402
from eventq.testing.conformance.scene import Scene  # noqa: E402
from eventq.testing.conformance.settings import SettingsRules  # noqa: E402
from eventq.testing.conformance.settles import SettleRules  # noqa: E402

__all__ = ["Scene", "StorageConformance"]


class StorageConformance(
    PutRules,
    ClaimRules,
    SettleRules,
    DeathRules,
    RecordRules,
    EditRules,
    SettingsRules,
    KeyRules,
    LimitRules,
    RateRules,
    PresenceRules,
    RestoreRules,
):
    """What every storage promises, one small test per sentence."""

    @pytest.fixture
    def clock(self) -> FakeClock | None:
        """The clock that the storage was given; None if it has its own time, and then tests really wait."""
        return None

    @pytest.fixture
    def open_worker(self) -> Callable[[], Storage]:
        """Opens another worker on the store of this test."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture open_worker: see {__name__}")

    @pytest.fixture
    def kill(self) -> Callable[[Storage], None] | None:
        """Lets a worker die as by kill -9, giving nothing back; None if there is no way to."""
        return None

    @pytest.fixture
    def scene(
        self,
        open_worker: Callable[[], Storage],
        clock: FakeClock | None,
        kill: Callable[[Storage], None] | None,
    ) -> Iterator[Scene]:
        """One store and its workers."""
        with Scene(open_worker, clock, kill) as scene:
            yield scene
