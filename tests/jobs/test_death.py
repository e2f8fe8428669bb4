"""Whoever is killed at whatever point, a job goes on and ends once: forced deaths, and kill -9 of real workers."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from schedules.test_firing import Killed
from stores import kinds, new_store
from tasks.programs import started, write
from tasks.running import PATIENCE, until
from workflows.test_running import pump

from eventq import App, EventqError
from eventq.clock import sleep
from eventq.model import Completed
from jobs.conftest import OpenApp, Tasks, attempts_of, entries, report_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from eventq import Run
    from eventq.testing import FakeClock

CHANGING = ("put", "put_key", "take_name", "replace_name", "release_name", "settle", "edit", "take_slot", "claim")
EVERY = 9
"""At every how many of its calls somebody is killed, but for the long test over memory storage: that is at each."""
EACH = "memory, each"


@pytest.fixture(params=[*kinds("memory"), pytest.param(EACH, marks=pytest.mark.exhaustive)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, tmp_path: Path) -> Iterator[str]:
    with new_store(kind.partition(",")[0], tmp_path) as url:
        yield url


@pytest.fixture
def every(kind: str) -> int:
    return 1 if kind == EACH else EVERY


class Dying:
    """A storage whose worker is killed at the n-th of its calls that change something, and does nothing any more."""

    def __init__(self, storage: Any, calls: int, after: bool) -> None:
        self._storage, self._left, self._after = storage, calls, after
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= name in CHANGING
            self.dead = self.dead or (self._left <= 0 and not self._after)
            if self.dead:
                raise Killed
            result = found(*args, **kwargs)
            self.dead = self._left <= 0 and name in CHANGING
            if self.dead:
                raise Killed
            return result

        return call


def killed_at(app: App, number: int, after: bool, act: Callable[[], object]) -> bool:
    """Whether somebody was killed before it was over. What the killed worker held goes back."""
    dying = Dying(app.store.storage, number, after)
    app.store.storage = dying  # type: ignore[assignment]
    try:
        act()
    except Killed:
        assert dying.dead
    finally:
        app.store.storage = dying._storage
        app.close()
    return dying.dead


def gone_on(app: App, clock: FakeClock, done: Callable[[], object]) -> None:
    """Another worker goes on, until something is true."""
    for _ in range(60):
        app.store.storage.recover()
        pump(app)
        if done():
            return
        clock.advance(2)
    raise AssertionError([(run.id, run.states()) for run in app.workflows.runs()])


def is_idle(app: App) -> bool:
    """Whether all runs have ended."""
    return all(run.ready() for run in app.workflows.runs())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_starter_that_is_killed_has_started_one_run_or_none(
    open_app: OpenApp, clock: FakeClock, after: bool, every: int
) -> None:
    heir = open_app()
    tasks = Tasks(heir)
    for number in range(1, 100, every):
        name = f"x{number}"
        heir.jobs.add(name, [(tasks.echo, number), (tasks.echo, "{0}")])
        victim = open_app()
        died = killed_at(victim, number, after, lambda victim=victim, name=name: victim.jobs.start(name))  # type: ignore[misc]
        gone_on(heir, clock, lambda: is_idle(heir))
        assert tasks.values("echo") in ([], [number] * 2)
        assert heir.jobs.job(name).status() == ("finished" if tasks.ran else "idle"), number
        tasks.ran.clear()
        run = heir.jobs.start(name)
        gone_on(heir, clock, run.ready)
        assert run.result(0) == [number] * 2
        tasks.ran.clear()
        assert heir.jobs.remove(name)
        assert entries(heir) == []
        if not died:
            return
    raise AssertionError("it never ends")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("restart", ["current", "first"])
def test_a_worker_that_is_killed_loses_no_step_of_a_jobs_life(
    open_app: OpenApp, clock: FakeClock, after: bool, every: int, restart: Any
) -> None:
    """A job that fails once, goes on, ends, and is followed by another: each of these once, whichever call of the
    worker is its last."""
    heir = open_app()
    for number in range(1, 400, every):
        tasks, names = Tasks(open_app()), (f"a{number}", f"b{number}")
        app = tasks.echo.app
        app.jobs.add(
            names[0],
            [(tasks.echo, 1), (tasks.fragile, number), (tasks.echo, "{1}")],
            next=names[1], max_retries=1, retry_delay=3, restart=restart,
        )  # fmt: skip
        app.jobs.add(names[1], [(tasks.echo, 2)])
        run = app.jobs.start(names[0])
        tasks.broken = [number]
        victim = open_app()
        adopt(victim, tasks)

        def life(victim: App = victim, run: Run = run) -> None:
            gone_on(victim, clock, lambda: run.ready() and is_idle(victim))

        died = killed_at(victim, number, after, life)
        gone_on(app, clock, lambda app=app, run=run: run.ready() and is_idle(app))  # type: ignore[misc]
        assert run.result(0) == [1, number, number]
        report = report_of(app, names[0])
        assert (report.state, report.exit_code) == ("finished", 0), number
        assert report.retries == 1 or (died and report.retries == 0), (
            number
        )  # it failed, and died before it could say so
        following = report_of(app, names[1])
        assert (following.state, following.exit_code, following.retries) == ("finished", 0, 0), number
        assert len(app.workflows.runs()) == 2
        lost = 1 if died else 0  # what was running when its worker died runs again
        assert len(tasks.values("echo")) <= {"current": 3, "first": 4}[restart] + lost
        assert 2 <= len(tasks.values("fragile")) <= 2 + lost
        if not died:
            assert attempts_of(app, names[0]) == ([1, 2, 1] if restart == "current" else [2, 2, 1])
        app.queue("workflows").purge("completed")
        for name in names:
            assert app.jobs.remove(name)
        app.close()
        if not died:
            break
    else:
        raise AssertionError("it never ends")
    assert entries(heir) == []


def adopt(app: App, tasks: Tasks) -> None:
    """Have the tasks in another app, too."""
    other = Tasks(app)
    other.ran = tasks.ran
    other.broken = tasks.broken
    for name in ("ran", "broken"):
        assert getattr(other, name) is getattr(tasks, name)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("act", ["restart", "abort", "remove", "disable", "add", "reset"])
def test_who_is_killed_changing_a_job_leaves_it_usable(
    open_app: OpenApp, clock: FakeClock, after: bool, every: int, act: str
) -> None:
    heir = open_app()
    tasks = Tasks(heir)
    for number in range(1, 100, every):
        name = f"x{number}"
        stages = [(tasks.echo, 0), (tasks.fragile, number)]
        heir.jobs.add(name, stages, cron="0 3 * * *")
        tasks.broken[:] = [number]
        run = heir.jobs.start(name)
        if act in ("restart", "reset"):
            gone_on(heir, clock, run.ready)
        victim = open_app()
        again = [(task.app.task_named(task.name), value) for task, value in stages]
        change: dict[str, Callable[[App], object]] = {
            "add": lambda app: app.jobs.add(name, [(app.task_named("j.echo"), 5)]),  # noqa: B023
        }
        made = change.get(act, lambda app: getattr(app.jobs, act)(name))  # noqa: B023
        died = killed_at(victim, number, after, lambda made=made, victim=victim: made(victim))  # type: ignore[misc]
        tasks.broken.clear()
        gone_on(heir, clock, lambda: is_idle(heir))
        heir.jobs.reconcile()
        heir.jobs.add(name, again)
        heir.jobs.enable(name)
        later = heir.jobs.start(name)
        gone_on(heir, clock, later.ready)
        assert later.result(0) == [0, number], (number, act)
        assert heir.jobs.job(name).status() == "finished"
        assert heir.jobs.remove(name)
        assert entries(heir) == []
        assert heir.schedules.all() == []
        if not died:
            return
    raise AssertionError("it never ends")


def test_the_next_job_is_started_once_though_the_end_of_the_first_is_repeated(
    open_app: OpenApp, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who ends the first one stops before it has settled that; meanwhile the next one has come to its end."""
    victim, heir = open_app(), open_app()
    tasks = Tasks(heir)
    heir.jobs.add("first", [(tasks.echo, 1)], next="second")
    heir.jobs.add("second", [(tasks.echo, 2)])
    adopt(victim, tasks)
    run = victim.jobs.start("first")
    settle = victim.store.storage.settle

    def dying(claimed: Any, outcome: Any) -> None:
        if claimed.id == run.id and isinstance(outcome, Completed):
            raise Killed
        settle(claimed, outcome)

    monkeypatch.setattr(victim.store.storage, "settle", dying)
    with pytest.raises(Killed):
        pump(victim)
    gone_on(heir, clock, lambda: heir.jobs.job("second").status() == "finished")
    assert run.status() == "running"
    victim.close()
    gone_on(heir, clock, heir.workflows.run(run.id).ready)
    gone_on(heir, clock, lambda: is_idle(heir))
    assert tasks.values("echo") == [1, 2]
    assert len(heir.workflows.runs()) == 2
    assert report_of(heir, "first").exit_code == 0


def test_of_many_who_start_a_job_at_once_one_does(open_app: OpenApp, clock: FakeClock) -> None:
    import threading

    apps = [open_app() for _ in range(4)]
    tasks = Tasks(apps[0])
    apps[0].jobs.add("x", [(tasks.echo, 1)])
    runs: list[Any] = []

    def start(app: App) -> None:
        try:
            runs.append(app.jobs.start("x"))
        except EventqError as error:
            runs.append(error)

    threads = [threading.Thread(target=start, args=(app,)) for app in apps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    gone_on(apps[0], clock, lambda: is_idle(apps[0]))
    assert len([each for each in runs if not isinstance(each, EventqError)]) == 1
    assert tasks.values("echo") == [1]
    assert len(entries(apps[0])) == 1


def test_a_starter_that_is_overtaken_says_so_and_leaves_nothing_that_begins(
    open_app: OpenApp, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at the record and its own entry in it another run was let in."""
    app, other = open_app(), open_app()
    tasks = Tasks(app)
    app.jobs.add("x", [(tasks.echo, 1)])
    refused = app.jobs._keeper.refused
    ahead: list[Run] = []

    def late(run: str, staged: Any) -> str:
        ahead.append(other.jobs.start("x"))
        monkeypatch.undo()
        return refused(run, staged)

    monkeypatch.setattr(app.jobs._keeper, "refused", late)
    with pytest.raises(EventqError, match=r"job 'x' runs already: run "):
        app.jobs.start("x")
    gone_on(app, clock, lambda: is_idle(app))
    assert tasks.values("echo") == [1]
    assert sorted(str(run.status()) for run in app.workflows.runs()) == ["cancelled", "completed"]
    assert report_of(app).id == ahead[0].id


# ---------------------------------------------------------------- real processes

PROGRAM = """
    import os, sys, time
    from pathlib import Path
    import eventq

    app = eventq.App()

    @app.task(bind=True, name="step", max_crashes=1000)
    def step(context: eventq.Context, number: int, before: list[int]) -> int:
        with open(f"notes/{os.getpid()}", "a") as notes:
            notes.write(f"{context.headers['correlation_id']}/{number} {context.id}\\n")
        time.sleep(PAUSE)
        return sum(before) + number

    job = app.job("job", [[(step, 1, []), (step, 2, [])],
                          *[[(step, number, f"{{{number - 1}}}"), (step, 1, [])] for number in range(1, STAGES)]],
                  deadline=None, next="after")
    app.job("after", [(step, 1000, [])])

    if __name__ == "__main__":
        app.worker(concurrency=2).run()
"""


def expected(stages: int) -> list[list[int]]:
    results = [[1, 2]]
    for number in range(1, stages):
        results.append([sum(results[-1]) + number, 1])
    return results


def notes_of(folder: Path) -> set[str]:
    lines = [line for file in (folder / "notes").iterdir() for line in file.read_text().splitlines()]
    return {line.partition(" ")[2] for line in lines if line.partition(" ")[2]}


def survives(url: str, folder: Path, kills: int, stages: int, pause: float) -> None:
    """A job of some stages goes on while its workers are killed, one after the other; each call has one event."""
    (folder / "notes").mkdir()
    text = PROGRAM.replace("PAUSE", str(pause)).replace("STAGES", str(stages))
    path = str(write(folder, "program.py", text))
    with App(url) as app:
        seen = 0
        for number in range(kills + 1):
            with started(folder, path) as worker:
                until(lambda: app.jobs.get("after") is not None)
                if number == 0:
                    run = app.jobs.start("job")
                if number == kills:
                    until(lambda: app.jobs.job("after").status() == "finished" or sleep(0.05))
                else:
                    until(lambda seen=seen, run=run: len(notes_of(folder)) > seen + 1 or run.ready())  # type: ignore[misc]
                    seen = len(notes_of(folder))
                worker.send_signal(signal.SIGKILL)
                worker.wait(PATIENCE)
        assert run.result(0) == expected(stages)
        assert (report_of(app, "job").exit_code, report_of(app, "after").exit_code) == (0, 0)
        assert len(app.workflows.runs()) == 2
    assert len(notes_of(folder)) == 2 * stages + 1


@pytest.fixture(params=[param for param in kinds() if "memory" not in param.values])  # type: ignore[attr-defined]
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with new_store(request.param, tmp_path) as url:
        yield url


@pytest.mark.exhaustive
def test_a_job_survives_the_kill_of_one_worker_after_the_other(
    shared_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTQ_URL", shared_url)
    survives(shared_url, tmp_path, kills=8, stages=12, pause=0.05)
