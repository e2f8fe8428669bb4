"""What all tests share: a clock to move by hand, where their stores are, and how hard the property tests look."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir
from stores import kinds, new_store

from eventq.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

MEMORY = "/dev/shm"
ENOUGH = 1 << 30
"""Bytes that must be free there: the quick tests leave about 200 MB before they are removed."""

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "eventq-hypothesis")  # not into the checkout
settings.register_profile(
    "long",
    deadline=None,  # two busy cores make single examples slow
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.register_profile("quick", settings.get_profile("long"), max_examples=25)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=kinds("memory", "file"))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new store, of each kind in turn."""
    with new_store(request.param, tmp_path) as url:
        yield url


def is_quick(config: pytest.Config) -> bool:
    return "not exhaustive" in config.option.markexpr


def has_room(folder: str) -> bool:
    if not os.access(folder, os.W_OK):
        return False
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize >= ENOUGH


def pytest_configure(config: pytest.Config) -> None:
    """The quick tests keep their stores in memory where they can: what a disk adds to them is time, and they notice
    no difference. The long ones use the disk, and `--basetemp` is obeyed: name one to see what a test left."""
    settings.load_profile("quick" if is_quick(config) else "long")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; our children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if is_quick(config) and config.option.basetemp is None and has_room(MEMORY):
        tempfile.tempdir = new_folder("eventq-tests-", MEMORY)
        config.option.basetemp = f"{tempfile.tempdir}/pytest"
    if sys.dont_write_bytecode:  # each of a hundred processes would compile all of eventq
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = new_folder("eventq-bytecode-", None)


def new_folder(prefix: str, within: str | None) -> str:
    """It goes when the process ends, after multiprocessing has removed what it keeps there."""
    folder = tempfile.TemporaryDirectory(prefix=prefix, dir=within, ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return folder.name


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Property tests are among the long ones, too: there they look at four times as many examples.

    A test named by an address is another test in each process, so that they cannot share out the tests."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: give the parameter an id that is the same in every process")
    if not is_quick(config):
        for item in items:
            if getattr(getattr(item, "function", None), "is_hypothesis_test", False):
                item.add_marker(pytest.mark.exhaustive)


def pytest_report_header(config: pytest.Config) -> str | None:
    if is_quick(config):
        return "eventq: the quick set; the long proofs: pytest -m exhaustive; on Redis and PostgreSQL: pytest -m server"
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """File names that are no UTF-8 are logged as they are; between processes, reports go as UTF-8."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report
