"""Runs of jobs: what stages are called with and come to, failures and restarts, deadlines, and what follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tasks.running import until, working

from eventq import App, ConfigError, JobRunning, Stage, TaskCancelled, TaskFailed
from eventq.model import Cancel, Filter, Released, State
from jobs.conftest import Tasks, attempts_of, report_of, work, worked

if TYPE_CHECKING:
    from eventq import JobStatus
    from eventq.testing import FakeClock


def status(app: App, name: str = "x") -> JobStatus:
    found = app.jobs.get(name)
    assert found is not None
    return found


def test_stages_run_in_order_and_take_earlier_results(app: App, tasks: Tasks, clock: FakeClock) -> None:
    job = app.job(
        "x",
        {
            "rows": (tasks.echo, {"day": "{day}", "rows": [{"id": 7}, {"id": 8}]}),
            "parts": [(tasks.echo, "{rows.rows[0].id}"), (tasks.echo, "{0.rows[-1].id}", "{limit}")],
            "report": Stage(tasks.typed, "{parts[0]}", text="{{{day}}}: {parts[1]}"),
            "last": (tasks.echo, ["{parts}", {"all": "{report}"}, "plain", 4, None]),
        },
        keywords={"day": "mon", "limit": None},
    )
    run = job.start(day="tue")
    assert worked(app, clock, run).result(0) == [
        {"day": "tue", "rows": [{"id": 7}, {"id": 8}]},
        [7, [8, None]],
        7,
        [[7, [8, None]], {"all": 7}, "plain", 4, None],
    ]
    assert ("typed", 7, "{tue}: [8, None]") in tasks.ran
    assert [each[0] for each in tasks.ran] == ["echo", "echo", "echo", "typed", "echo"]
    report = report_of(app)
    assert (report.id, report.state, report.exit_code, report.error) == (run.id, "finished", 0, None)
    assert [each.name for each in report.stages] == ["rows", "parts", "report", "last"]
    assert {each.state for each in report.stages} == {"completed"}
    assert attempts_of(app) == [1, 2, 1, 1]
    assert {each.worker for each in report.stages} == {app.store.storage.worker}
    assert all(each.started is not None and each.ended is not None for each in report.stages)


def test_each_run_has_an_id_of_its_own_which_its_stages_carry(app: App, tasks: Tasks, clock: FakeClock) -> None:
    job = app.job("x", [(tasks.look, 1), (tasks.look, 2)])
    runs = [worked(app, clock, job.start()).id for _ in range(2)]
    assert len(set(runs)) == 2
    assert [context.headers["correlation_id"] for context in tasks.contexts] == [runs[0]] * 2 + [runs[1]] * 2


def test_the_states_of_a_job(app: App, tasks: Tasks, clock: FakeClock) -> None:
    job = app.job("x", [(tasks.echo, 1), (tasks.echo, 2)])
    app.jobs.reconcile()
    seen = [job.status()]
    run = job.start()
    seen.append(job.status())
    storage, engine = app.store.storage, app.workflows.engine
    (claimed,) = storage.claim("default", 1)
    seen.append(job.status())
    storage.settle(claimed, Released())  # as a worker that stops, or whose death was noticed
    seen.append(job.status())
    work(app)
    worked(app, clock, run)
    seen.append(job.status())
    assert seen == ["idle", "queued", "running", "suspended", "finished"]
    assert app.jobs.reset("x") is True
    assert app.jobs.reset("x") is False
    assert (job.status(), job.report(), job.run()) == ("idle", None, None)
    assert engine.owner is not None


@pytest.mark.parametrize(("restart", "expected"), [("current", [0, 1, 1, 2]), ("first", [0, 1, 0, 1, 2])])
def test_a_run_that_failed_goes_on_where_it_says(
    app: App, tasks: Tasks, clock: FakeClock, restart: Any, expected: list[int]
) -> None:
    """Stage 1 fails once: `current` runs stage 0 once, `first` twice."""
    job = app.job("x", [(tasks.fragile, number) for number in range(3)], restart=restart, max_retries=1, retry_delay=5)
    tasks.broken = [1]
    run = job.start()
    work(app)
    assert tasks.values("fragile") == [0, 1]
    assert job.status() == "queued"
    report = report_of(app)
    assert report.retries == 1
    assert report.retry_at is not None
    assert report.error is not None
    assert report.error.message == "1 is broken"
    assert worked(app, clock, run).result(0) == [0, 1, 2]
    assert tasks.values("fragile") == expected
    assert attempts_of(app) == ([1, 2, 1] if restart == "current" else [2, 2, 1])
    assert (report_of(app).retries, report_of(app).exit_code, report_of(app).error) == (1, 0, None)


def test_a_batch_goes_on_with_what_failed_of_it(app: App, tasks: Tasks, clock: FakeClock) -> None:
    job = app.job("x", [[(tasks.fragile, number) for number in range(3)], (tasks.echo, "{0}")], max_retries=1)
    tasks.broken = [1]
    assert worked(app, clock, job.start()).result(0) == [[0, 1, 2], [0, 1, 2]]
    assert sorted(tasks.values("fragile")) == [0, 1, 1, 2]
    assert attempts_of(app) == [4, 1]


def test_retries_end(app: App, tasks: Tasks, clock: FakeClock) -> None:
    job = app.job("x", [(tasks.fragile, 0), (tasks.fragile, 1), (tasks.echo, 2)], max_retries=2)
    tasks.broken = [1] * 9
    run = worked(app, clock, job.start())
    with pytest.raises(TaskFailed, match="1 is broken"):
        run.result(0)
    assert tasks.values("fragile") == [0, 1, 1, 1]
    report = report_of(app)
    assert (report.state, report.exit_code, report.retries) == ("failed", 1, 2)
    assert [each.state for each in report.stages] == ["completed", "dead", "skipped"]
    assert attempts_of(app) == [1, 3, 0]
    assert report.stages[1].error is not None
    assert report.stages[1].error.message == "1 is broken"
    assert (status(app).state, status(app).report) == ("failed", report)


@pytest.mark.parametrize(("restart", "expected"), [("current", [0, 1, 1]), ("first", [0, 1, 0, 1])])
def test_restarting_a_job_that_failed(
    app: App, tasks: Tasks, clock: FakeClock, restart: Any, expected: list[int]
) -> None:
    job = app.job("x", [(tasks.fragile, 0), (tasks.fragile, 1)], restart=restart)
    with pytest.raises(ConfigError, match="has no run that failed"):
        app.jobs.restart("x")
    tasks.broken = [1]
    run = worked(app, clock, job.start())
    clock.advance(1000)
    assert app.jobs.restart("x") == run
    with pytest.raises(JobRunning):
        app.jobs.restart("x")
    assert worked(app, clock, run).result(0) == [0, 1]
    assert tasks.values("fragile") == expected
    assert (report_of(app).state, report_of(app).retries) == ("finished", 0)
    assert attempts_of(app) == ([1, 2] if restart == "current" else [2, 2])
    with pytest.raises(ConfigError, match="has no run that failed"):
        app.jobs.restart("x")


def test_only_the_job_goes_on_with_its_runs(app: App, tasks: Tasks, clock: FakeClock) -> None:
    job = app.job("x", [(tasks.fragile, 0)])
    tasks.broken = [0]
    run = worked(app, clock, job.start())
    with pytest.raises(ConfigError, match="this is a run of the job 'x'"):
        run.resume()
    from eventq.workflow.graph import to_dict

    with pytest.raises(ConfigError, match="this is a run of the job 'x'"):
        app.workflow_from(to_dict(run.definition()))


# ---------------------------------------------------------------- templates that fail


@pytest.mark.parametrize("broken", ["{rows[5]}", "{rows.id}", "see {rows[0].nope}"])
def test_a_template_that_cannot_be_filled_fails_its_stage(
    app: App, tasks: Tasks, clock: FakeClock, broken: str
) -> None:
    job = app.job("x", {"rows": (tasks.echo, [{"id": 1}]), "bad": (tasks.echo, broken), "after": tasks.echo})
    run = worked(app, clock, job.start())
    with pytest.raises(TaskFailed, match="TemplateError"):
        run.result(0)
    with pytest.raises(TaskFailed, match="TemplateError"):
        run.node("bad").result(0)
    report = report_of(app)
    assert [each.state for each in report.stages] == ["completed", "dead", "skipped"]
    assert report.error is not None
    assert report.error.type.endswith("TemplateError")
    assert broken[broken.index("{") :] in report.error.message
    assert attempts_of(app) == [1, 0, 0]
    assert [each[0] for each in tasks.ran] == ["echo"]


def test_a_call_that_grows_too_large_fails_its_stage(app: App, tasks: Tasks, clock: FakeClock) -> None:
    app.queue("default", max_bytes=2000)
    job = app.job("x", [(tasks.echo, "y" * 900), (tasks.echo, "{0}", "{0}", "{0}")])
    run = worked(app, clock, job.start())
    with pytest.raises(TaskFailed, match="at most 2000"):
        run.result(0)


def test_a_result_that_a_task_does_not_take_fails_its_stage(app: App, tasks: Tasks, clock: FakeClock) -> None:
    job = app.job("x", [(tasks.echo, "text"), (tasks.typed, "{0}")])
    with pytest.raises(TaskFailed, match="Expected `int`, got `str`"):
        worked(app, clock, job.start()).result(0)


# ---------------------------------------------------------------- deadlines, aborting


def test_the_deadline_is_told_to_each_stage_and_is_its_timeout(app: App, tasks: Tasks, clock: FakeClock) -> None:
    stages = [tasks.look, tasks.look.using(timeout=5.0), tasks.look.using(timeout=500.0)]
    start = clock.now()
    worked(app, clock, app.job("x", stages, deadline=60).start())
    assert [context.headers["deadline"] for context in tasks.contexts] == [start + 60] * 3
    left = [context.deadline_at - clock.monotonic() for context in tasks.contexts if context.deadline_at is not None]
    assert [round(each) for each in left] == [60, 5, 60]
    tasks.contexts.clear()
    worked(app, clock, app.job("y", stages, deadline=None).start())
    assert [context.headers.get("deadline") for context in tasks.contexts] == [None] * 3
    assert tasks.contexts[0].deadline_at is None


def test_what_the_task_says_of_its_timeout_holds_if_that_is_less(app: App, clock: FakeClock) -> None:
    deadlines = []

    @app.task(name="hurried", bind=True, timeout=3.0)
    def hurried(context: Any) -> None:
        deadlines.append(context.remaining())

    worked(app, clock, app.job("x", [hurried], deadline=60).start())
    assert deadlines == [3.0]


def test_a_run_past_its_deadline_is_cancelled(app: App, tasks: Tasks, clock: FakeClock) -> None:
    """Nobody runs its tasks: the look after the run is due at the deadline at the latest."""
    job = app.job(
        "x", [app.task_named("nobody.knows").using(queue="elsewhere"), tasks.echo], deadline=60, max_retries=5
    )
    run = job.start()
    clock.advance(59.0)
    app.workflows.engine.look()
    assert job.status() == "queued"
    record = app.store.storage.get(run.id)
    assert record is not None
    assert record.due is not None
    assert record.due == pytest.approx(clock.now() + 1.0, abs=0.01)
    clock.advance(1.01)
    worked(app, clock, run)
    with pytest.raises(TaskCancelled, match="its deadline has passed"):
        run.result(0)
    report = report_of(app)
    assert (report.state, report.exit_code, report.retries) == ("failed", 130, 0)
    assert report.error is not None
    assert report.error.message == "its deadline has passed"
    assert app.queue("elsewhere").stats().ready == 0
    assert tasks.ran == []


@pytest.mark.exhaustive
def test_a_stage_that_runs_into_the_deadline_is_ended() -> None:
    with App("memory://") as real:  # by the machine's clock: what is told is a coroutine

        @real.task(name="endless")
        async def endless() -> None:
            from eventq.bridge import sleep

            await sleep(60)

        job = real.job("x", [endless, endless], deadline=1.0)
        with working(real):
            run = job.start()
            assert run.wait(20)
            report = until(lambda: (found := job.report()) and found.ended and found)
        assert (report.state, report.exit_code) == ("failed", 130)


def test_no_retry_begins_after_the_deadline(app: App, tasks: Tasks, clock: FakeClock) -> None:
    tasks.broken = [1] * 9
    job = app.job("x", [(tasks.fragile, 1)], deadline=60, max_retries=10, retry_delay=25)
    worked(app, clock, job.start())
    assert (report_of(app).exit_code, report_of(app).retries) == (1, 2)


def test_aborting(app: App, tasks: Tasks, clock: FakeClock) -> None:
    job = app.job("x", [(tasks.echo, 1), (tasks.echo, 2)], max_retries=5)
    app.jobs.reconcile()
    assert app.jobs.abort("x") is False
    run = job.start()
    assert app.jobs.abort("x", "not today") is True
    worked(app, clock, run)
    assert tasks.ran == []
    report = report_of(app)
    assert (report.state, report.exit_code, report.retries) == ("failed", 130, 0)
    assert report.error is not None
    assert report.error.message == "not today"
    assert run.status() == "cancelled"
    assert app.jobs.abort("x") is False
    assert worked(app, clock, app.jobs.restart("x")).result(0) == [1, 2]


def test_aborting_what_waits_to_go_on(app: App, tasks: Tasks, clock: FakeClock) -> None:
    tasks.broken = [1] * 9
    job = app.job("x", [(tasks.fragile, 1)], max_retries=5, retry_delay=100)
    run = job.start()
    work(app)
    assert job.status() == "queued"
    assert app.jobs.abort("x") is True
    worked(app, clock, run, step=0.5)
    assert (report_of(app).exit_code, run.status()) == (130, "cancelled")
    assert tasks.values("fragile") == [1]


def test_cancelling_the_run_is_aborting_the_job(app: App, tasks: Tasks, clock: FakeClock) -> None:
    job = app.job("x", [(tasks.echo, 1)], max_retries=5)
    run = job.start()
    assert run.cancel("enough")
    worked(app, clock, run)
    report = report_of(app)
    assert (report.exit_code, report.state) == (130, "failed")
    assert report.error is not None
    assert report.error.message == "enough"


def test_a_run_that_somebody_removes_by_hand_blocks_nothing(app: App, tasks: Tasks, clock: FakeClock) -> None:
    job = app.job("x", [(tasks.echo, 1)])
    run = job.start()
    assert app.store.storage.edit("workflows", [run.id], Cancel()) == ["cancelled"]
    assert (job.status(), report_of(app).exit_code) == ("failed", None)
    assert worked(app, clock, job.start()).result(0) == [1]


# ---------------------------------------------------------------- one run at a time, what follows


def test_one_run_at_a_time(app: App, tasks: Tasks, clock: FakeClock) -> None:
    job = app.job("x", [(tasks.echo, 1)])
    run = job.start()
    with pytest.raises(JobRunning, match=f"job 'x' runs already: run {run.id}") as caught:
        job.start()
    assert (caught.value.job, caught.value.run) == ("x", run.id)
    with pytest.raises(JobRunning):
        app.jobs.reset("x")
    assert app.workflows.runs() == [run]
    worked(app, clock, run)
    assert worked(app, clock, job.start()) != run


def test_keywords_that_the_job_does_not_have(app: App, tasks: Tasks) -> None:
    job = app.job("x", [(tasks.echo, "{day}")], keywords={"day": "mon"})
    with pytest.raises(TypeError, match="job 'x' has no keyword 'dya'; there are: day"):
        job.start(dya="tue")
    assert app.workflows.runs() == []


def test_the_next_job_is_started_on_success_alone(app: App, tasks: Tasks, clock: FakeClock) -> None:
    first = app.job("first", [(tasks.fragile, 1)], next="second")
    second = app.job("second", [(tasks.echo, "second")], next="third")
    app.job("third", [(tasks.echo, "third")], enabled=False)
    app.jobs.reconcile()
    tasks.broken = [1]
    worked(app, clock, first.start())
    work(app)
    assert second.status() == "idle"
    worked(app, clock, first.start())
    run = second.run()
    assert run is not None
    assert worked(app, clock, run).result(0) == ["second"]
    work(app)
    assert app.jobs.job("third").status() == "idle"
    assert tasks.values("echo") == ["second"]
    assert len(app.workflows.runs()) == 3


def test_a_next_job_that_runs_or_is_gone_is_left_alone(app: App, tasks: Tasks, clock: FakeClock) -> None:
    first = app.job("first", [(tasks.echo, 1)], next="second")
    worked(app, clock, first.start())
    second = app.job("second", [app.task_named("nobody.knows").using(queue="elsewhere")], deadline=None)
    run = second.start()
    worked(app, clock, first.start())
    assert second.run() == run
    assert [each.status() for each in app.workflows.runs()] == ["completed", "running", "completed"]


def test_the_user_is_told_how_it_ends_if_that_is_asked_for(app: App, tasks: Tasks, clock: FakeClock) -> None:
    job = app.job("x", [(tasks.fragile, 1)], user="ada", notify=True, max_retries=1)
    quiet = app.job("quiet", [(tasks.echo, 1)], user="ada")
    tasks.broken = [1, 1, 1]
    for _ in range(2):
        worked(app, clock, job.start())
    worked(app, clock, quiet.start())
    told = app.notifications.list("ada")
    assert [(each.name, each.status) for each in told] == [("x", "completed"), ("x", "dead")]


# ---------------------------------------------------------------- disabled, cron


def test_a_disabled_job_is_not_retried(app: App, tasks: Tasks, clock: FakeClock) -> None:
    tasks.broken = [1] * 9
    job = app.job("x", [(tasks.fragile, 1)], max_retries=5, retry_delay=10)
    run = job.start()
    work(app)
    app.jobs.disable("x")
    worked(app, clock, run)
    assert tasks.values("fragile") == [1]
    assert (report_of(app).exit_code, report_of(app).retries) == (1, 1)


def test_cron_starts_it_again_and_again(app: App, tasks: Tasks, clock: FakeClock) -> None:
    app.job("x", [(tasks.echo, "{day}")], cron="*/5 * * * *", keywords={"day": "mon"})
    work(app)
    ids = set()
    for number in range(1, 4):
        following = status(app).next_run
        assert following is not None
        clock.advance(following.timestamp() - clock.now())
        work(app)
        worked(app, clock, app.workflows.runs()[-1])
        assert tasks.values("echo") == ["mon"] * number
        ids.add(report_of(app).id)
    assert len(ids) == 3
    schedule = app.schedules.get("job.x")
    assert schedule is not None
    assert (schedule.workflow, schedule.cron) == ("x", "*/5 * * * *")


def test_the_schedule_is_changed_paused_and_removed_with_the_job(app: App, tasks: Tasks, clock: FakeClock) -> None:
    app.jobs.add("x", [tasks.echo], cron="*/5 * * * *")
    before = app.schedules.get("job.x")
    app.jobs.add("x", [tasks.echo], cron="*/5 * * * *")
    assert app.schedules.get("job.x") == before
    app.jobs.disable("x")
    schedule = app.schedules.get("job.x")
    assert schedule is not None
    assert (schedule.paused, status(app).next_run) == (True, None)
    clock.advance(600)
    work(app)
    assert app.workflows.runs() == []
    app.jobs.add("x", [tasks.echo], cron="0 3 * * *")
    schedule = app.schedules.get("job.x")
    assert schedule is not None
    assert (schedule.paused, schedule.cron) == (True, "0 3 * * *")
    app.jobs.enable("x")
    assert status(app).next_run is not None
    app.jobs.add("x", [tasks.echo])
    assert app.schedules.all() == []
    app.jobs.add("x", [tasks.echo], cron="0 3 * * *")
    assert app.jobs.remove("x")
    assert app.schedules.all() == []


def test_a_schedule_that_a_killed_process_has_not_made_is_made_by_the_next_worker(app: App, tasks: Tasks) -> None:
    app.jobs.add("x", [tasks.echo], cron="0 3 * * *")
    app.schedules.remove("job.x")
    work(app)
    assert status(app).next_run is not None


def test_batches_of_a_hundred_calls_are_stored_without_ten_thousand_edges_each(app: App, tasks: Tasks) -> None:
    app.jobs.add("x", [[(tasks.echo, 1)] * 100 for _ in range(10)])
    run = app.jobs.start("x")
    record = app.store.storage.get(run.id)
    assert record is not None
    assert len(record.payload) < 200_000
    assert app.queue("default").stats().ready == 100
    assert app.store.storage.scan("workflows", State.DELAYED, Filter(), None, 10).records
    assert app.jobs.abort("x")


@pytest.mark.exhaustive
def test_a_hundred_stages(app: App, tasks: Tasks, clock: FakeClock) -> None:
    job = app.job("x", [(tasks.echo, 0), *[(tasks.echo, f"{{{number}}}") for number in range(99)]], deadline=None)
    assert worked(app, clock, job.start()).result(0) == [0] * 100
