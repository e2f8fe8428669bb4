"""Fail, and separately die, at every disk call of every operation; then hold the store to what was promised."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventq.errors import ClaimLost, EventqError, StorageError
from eventq.storage.file import disk
from faults import (  # noqa: F401 - they register their scenarios
    scenarios_changing,
    scenarios_limits,
    scenarios_rates,
    scenarios_restoring,
)
from faults.check import check
from faults.disk import FAILING, Died, FaultyDisk
from faults.scenarios import SCENARIOS
from faults.world import World, fast_folder, forget_frames, still_maintenance

MAX_CALLS = 2000


class Lab:
    """Makes worlds, one after another."""

    def __init__(self, folder: Path, disk: FaultyDisk) -> None:
        self.folder = folder
        self.disk = disk
        self.runs = 0

    def world(self, sync: bool = True) -> World:
        self.runs += 1
        self.disk.closed_twice.clear()
        return World(self.folder / str(self.runs), self.disk, sync)

    def done(self, world: World) -> None:
        world.kill_all()
        assert not self.disk.closed_twice, "a descriptor was closed twice"
        shutil.rmtree(world.root, ignore_errors=True)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    still_maintenance(monkeypatch)
    faulty = FaultyDisk()
    faulty.install(monkeypatch)
    folder = Path(tempfile.mkdtemp(prefix="eventq-faults-", dir=fast_folder()))
    try:
        yield Lab(folder, faulty)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------------------- one run


def die(lab: Lab, name: str, at: int, *, half: bool = False, sync: bool = True) -> bool:
    """Die in the `at`-th call of an operation; whether there was such a call."""
    world = lab.world(sync)
    steps = SCENARIOS[name](world)
    next(steps)
    world.note_producers()
    lab.disk.arm_death(at, half)
    try:
        for _ in steps:
            raise AssertionError("a scenario has one yield")
    except Died as death:
        forget_frames(death)
    except ClaimLost as error:
        raise AssertionError("nobody took the claim away") from error
    finally:
        steps.close()
        lab.disk.disarm()
    struck = lab.disk.struck
    world.kill_all()
    judge(world, f"{name}: died in call {at}, {struck}")
    lab.done(world)
    return struck is not None


def judge(world: World, what: str) -> None:
    try:
        check(world)
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from error


def fail(
    lab: Lab, name: str, at: int, code: int, *, short: bool = False, lasting: bool = False, sync: bool = True
) -> bool:
    """Let the `at`-th call fail; whether there was such a call. The worker must go on afterwards."""
    world = lab.world(sync)
    steps = SCENARIOS[name](world)
    next(steps)
    what = f"{name}: call {at} failed with {errno.errorcode[code]}"
    lab.disk.arm_error(at, code, short=short, lasting=lasting)
    try:
        for _ in steps:
            raise AssertionError("a scenario has one yield")
    except EventqError as error:
        # in a queue with a lease, a look that fails to see the claim's name says that it is lost, to be safe
        lost = isinstance(error, ClaimLost) and "exists" in (lab.disk.struck or "")
        assert lost or isinstance(error, StorageError), f"{what}, and raised {error!r}"
        forget_frames(error)
    except OSError as error:
        raise AssertionError(f"{what}, {lab.disk.struck}, and a bare {error!r} came out") from error
    finally:
        struck = lab.disk.struck
        lab.disk.disarm()
        steps.close()
    what += f", {struck}"
    try:
        go_on(world)
    except EventqError as error:
        raise AssertionError(f"{what}, and the worker is of no use: {error!r}") from error
    judge(world, what)
    lab.done(world)
    return struck is not None


def go_on(world: World) -> None:
    """The error has passed: every worker looks after the store, works, and leaves."""
    world.extra = None
    if not world.workers:
        world.open()
    for number, worker in enumerate(list(world.workers)):
        if worker._closed:
            continue
        world.look(worker)
        world.put(f"after {number}", worker=worker, queue="after")
        claimed = worker.claim("after")
        assert len(claimed) == 1
        world.settle(claimed[0], worker=worker)
        world.look(worker)
        worker.close()
    world.workers.clear()


def at_every_call(run: Callable[[int], bool], first: int = 1, step: int = 1) -> None:
    for at in range(first, MAX_CALLS, step):
        if not run(at):
            return
    raise AssertionError(f"more than {MAX_CALLS} calls")


def process_ends(lab: Lab, name: str, at: int) -> bool:
    """Let a forked process end in a call of an operation; whether there was such a call."""
    world = lab.world()
    left = lab.folder / "ledger"
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            steps = SCENARIOS[name](world)
            next(steps)

            def end(*_: object) -> None:
                left.write_bytes(pickle.dumps((world.ledger, world.clock.now())))
                os._exit(2)

            lab.disk.arm(at, end)
            next(steps, None)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 2)
    if code == 2:
        world.ledger, now = pickle.loads(left.read_bytes())
        world.clock.step_wall(now - world.clock.now())
        judge(world, f"{name}: its process ended in call {at}")
    lab.done(world)
    return code == 2


def recoverer_dies(lab: Lab, name: str, at: int, then: int) -> bool:
    """Die in a call of an operation, and let who looks after it die in a call of that; whether both were there."""
    world = lab.world()
    steps = SCENARIOS[name](world)
    next(steps)
    world.note_producers()
    struck = _die_in(lab, at, lambda: next(steps, None))
    steps.close()
    world.kill_all()
    if struck is not None:
        heir = world.open()
        assert heir.worker
        world.clock.advance(0.25)
        world.note_producers()
        struck = _die_in(lab, then, heir.recover)
        world.kill_all()
        judge(world, f"{name}: died in call {at}, and the one who looked in call {then}, {struck}")
    lab.done(world)
    return struck is not None


def _die_in(lab: Lab, at: int, work: Callable[[], object]) -> str | None:
    lab.disk.arm_death(at)
    try:
        work()
    except Died as death:
        forget_frames(death)
    finally:
        lab.disk.disarm()
    return lab.disk.struck


# ---------------------------------------------------------------------------- the quick set

STRIDE = 40
"""The quick set strikes in every fortieth call, and in one at least, another one in each scenario. Half of the
scenarios die in them, and in the other half they fail."""
NAMES = sorted(SCENARIOS)


def some_of(calls: int, name: str) -> range:
    """Those of so many calls in which the quick set strikes."""
    return range(1 + NAMES.index(name) % max(1, min(calls, STRIDE)), calls + 1, STRIDE)


def calls_of(lab: Lab, name: str) -> list[str]:
    """The scenario itself is right: with no fault, everything is as promised. The calls of its operation."""
    calls: list[str] = []
    world = lab.world()
    steps = SCENARIOS[name](world)
    next(steps)
    with lab.disk.listening(calls):
        next(steps, None)
    go_on(world)
    check(world)
    lab.done(world)
    return calls


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_in_some_calls(lab: Lab, name: str) -> None:
    calls = calls_of(lab, name)
    if NAMES.index(name) % 2:
        for at in some_of(len(calls), name):
            die(lab, name, at)
    else:
        for at in some_of(sum(call in FAILING[errno.EIO] for call in calls), name):
            fail(lab, name, at, errno.EIO)


def test_an_error_of_close_is_no_error(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What must be durable was synced before; a put that says "nothing was stored" because of it would lie."""
    fd = os.open(os.devnull, os.O_RDONLY)
    real = os.close

    def close(number: int) -> None:
        real(number)
        if number == fd:
            raise OSError(errno.EIO, "late")

    monkeypatch.setattr(os, "close", close)
    disk.close(fd)
    assert "late" in caplog.text


# ---------------------------------------------------------------------------- all of it

DEATHS = 6
"""Of a long operation, after so many of which there is a second death."""
ERRORS = [errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EACCES]


@pytest.mark.exhaustive
@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_dies_at_every_call(lab: Lab, name: str, half: bool, sync: bool) -> None:
    """Before the call; with `half`, in the middle of each write."""
    at_every_call(lambda at: die(lab, name, at, half=half, sync=sync))


@pytest.mark.exhaustive
@pytest.mark.parametrize("code", ERRORS, ids=[errno.errorcode[code] for code in ERRORS])
@pytest.mark.parametrize("name", NAMES)
def test_fails_at_every_call(lab: Lab, name: str, code: int) -> None:
    at_every_call(lambda at: fail(lab, name, at, code))


@pytest.mark.exhaustive
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("name", NAMES)
def test_goes_on_failing_from_every_call(lab: Lab, name: str, code: int) -> None:
    at_every_call(lambda at: fail(lab, name, at, code, lasting=True))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_every_write_is_short(lab: Lab, name: str) -> None:
    at_every_call(lambda at: fail(lab, name, at, errno.ENOSPC, short=True, sync=False))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_a_process_ends_at_some_calls(lab: Lab, name: str) -> None:
    """The same with real processes, whose locks and descriptors the kernel takes back: in every sixth call."""
    at_every_call(lambda at: process_ends(lab, name, at), 1 + NAMES.index(name) % 6, 6)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_whoever_looks_after_the_dead_dies_too(lab: Lab, name: str) -> None:
    """In some calls of the operation, every eighth of a short one, and then in every third call of its recovery,
    another third each time."""
    step = max(8, len(calls_of(lab, name)) // DEATHS)
    at = 1 + NAMES.index(name) % step
    while recoverer_dies(lab, name, at, 1):
        at_every_call(lambda then, at=at: recoverer_dies(lab, name, at, then), 2 + at % 3, 3)  # type: ignore[misc]
        at += step
