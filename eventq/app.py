"""The app: a program's way into a store."""

from __future__ import annotations

import functools
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import msgspec

from eventq import clock, disabled
from eventq.codec import JSON, choose, packer
from eventq.config import AppConfig, Config, QueueSettings, known, queue_settings, task_options, text, type_name
from eventq.entries import RESERVED_NAMES
from eventq.errors import ConfigError
from eventq.handle import Handle
from eventq.inbox import is_shown
from eventq.job import Job, JobOptions, Jobs
from eventq.lock import Lock, Semaphore
from eventq.middleware import Hooks
from eventq.notifications import Notifications
from eventq.options import CallOptions, TaskOptions
from eventq.queue import Queue
from eventq.schedule import ScheduleOptions, Schedules
from eventq.sources import read_config
from eventq.storage import Storage, open_storage
from eventq.store import Store
from eventq.stream import Stream
from eventq.task import Task, make_task
from eventq.workflow import Workflow, Workflows, flow
from eventq.workflow.graph import from_dict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
    from datetime import datetime
    from types import TracebackType
    from typing import Literal, Self, Unpack

    from eventq.aio import AsyncApp
    from eventq.disabled import DisabledTask
    from eventq.middleware import Middleware
    from eventq.model import Name, Record
    from eventq.model import Worker as WorkerRecord
    from eventq.options import Executor
    from eventq.task import AsyncGeneratorTask, BindingDecorator, CoroutineTask, GeneratorTask, TaskDecorator
    from eventq.worker import Worker
    from eventq.worker.control import WorkerStats

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
Y = TypeVar("Y")

log: logging.Logger = logging.getLogger("eventq.app")

pack_data: Callable[[Any], bytes] = packer(JSON)


class NamedClaim(msgspec.Struct, frozen=True):
    """A name that was taken: by which worker, when, and what it said about it."""

    name: str
    worker: str
    at: datetime
    data: Any


class App:
    """A program's way into a store: its queues, handles, names and locks. `with App() as app:` closes it.

    `url` is a directory (`"./.eventq"`, `"file:///srv/q"`), `"memory://"`, or another storage's URL; without one the
    environment's EVENTQ_URL, else `url` of `[tool.eventq]` in the nearest pyproject.toml, else `./.eventq`. The store
    is opened (and made, if need be) at once, so that what is wrong with it is said here.

    `sync` belongs to a file store and is fixed when that is made, True unless said: then what was put survives a power
    cut, not only the death of processes. `storage` is an opened storage instead of a URL; the app closes it. `codec` is
    how payloads are written: `"json"`, `"msgpack"`, or an object; `codecs` are further ones to read; `clock` is for
    tests. Every other option is a field of `eventq.config.Config`, and may as well be said in the environment and in
    pyproject.toml; those are read now, and then not again.

    An app may be used by many threads, and after a fork. Raises ConfigError, StorageError; TypeError for an unknown
    option.
    """

    __slots__ = (
        "_states", "_states_lock", "config", "hooks", "jobs", "notifications", "schedules", "serving", "store", "tasks",
        "workflows",
    )  # fmt: skip

    def __init__(
        self,
        url: str | os.PathLike[str] | None = None,
        *,
        sync: bool | None = None,
        storage: Storage | None = None,
        **config: Unpack[AppConfig],
    ) -> None:
        options = known(config, AppConfig, "App")
        time = options.get("clock", clock.SYSTEM)
        where: dict[str, Any] = {} if url is None else {"url": os.fspath(url)}
        if sync is not None:
            where["sync"] = sync
        if storage is not None and where:
            raise ConfigError("storage= is open already; leave out url and sync=")
        self.config: Config = read_config({**options, **where}, opened=storage is not None)
        """What was said to it, in the environment and in pyproject.toml, merged."""
        codec, codecs = choose(self.config.codec, options.get("codecs", ()))
        if storage is None:
            storage = open_storage(self.config.url, sync=self.config.sync, clock=time)
        self.store: Store = Store(storage, codec=codec, codecs=codecs, clock=time)
        """The opened store, on which the layers above build."""
        self.tasks: dict[str, Task[Any, Any]] = {}
        """The tasks that are defined here, by name."""
        self.hooks: Hooks = Hooks()
        """What is told about tasks and workers: see `use` and `on`."""
        self.notifications: Notifications = Notifications(self.store, self.config.keep_notifications)
        """What users are told: see `Notifications`."""
        self.schedules: Schedules = Schedules(self)
        """The schedules of the store, to list and to change: see `Schedules`."""
        self.workflows: Workflows = Workflows(self)
        """The runs of workflows in the store: see `Workflows`."""
        self.jobs: Jobs = Jobs(self)
        """The staged jobs of the store, to list, to start and to change: see `Jobs`."""
        self.serving: list[Worker] = []
        """Its workers that run now, in this process."""
        self._states: dict[str, Any] = {}
        self._states_lock = threading.Lock()

    @property
    def aio(self) -> AsyncApp:
        """The same, awaitable."""
        from eventq.aio import AsyncApp

        return AsyncApp(self)

    def close(self) -> None:
        """Give back what is claimed and leave the store; harmless when repeated. Use after it: StorageClosed."""
        self.store.storage.close()
        self.store.bridge.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<App on {type(self.store.storage).__name__}, worker {self.store.storage.worker}>"

    # ------------------------------------------------------------------ queues and events

    @overload
    def queue(self, name: type[T], **settings: Unpack[QueueSettings]) -> Queue[T]: ...
    @overload
    def queue(self, name: str, **settings: Unpack[QueueSettings]) -> Queue[Any]: ...
    @overload
    def queue(self, name: str, type: type[T], **settings: Unpack[QueueSettings]) -> Queue[T]: ...
    @overload
    def queue(self, name: str, type: Any, **settings: Unpack[QueueSettings]) -> Queue[Any]: ...
    def queue(self, name: Any, type: Any = Any, **settings: Unpack[QueueSettings]) -> Queue[Any]:
        """A queue by its name, or by the class of its payloads, whose name then includes its module.

        With a type, payloads are checked when put and decoded to it when claimed. Settings that are given and differ
        are stored for every process (see `Queue.configure`); those not given stay as they are. A queue exists once
        something was put or set.
        """
        if not isinstance(name, str):
            if type is not Any:
                raise TypeError("a queue is named by a text or by its type, not by two types")
            name, type = type_name(name), name
        queue: Queue[Any] = Queue(self.store, name, type)
        if said := queue_settings(self.config, name, settings):
            queue.configure(**said)
        return queue

    def queues(self) -> list[str]:
        """The names of all queues, sorted; of the workers' own (`worker-<id>`) only those that hold something."""
        storage = self.store.storage
        return [name for name in storage.queues() if is_shown(storage, name)]

    def workers(self) -> list[WorkerRecord]:
        """The living processes that have joined the store, and what they run."""
        return self.store.storage.workers()

    def ping(self, worker: str | None = None, timeout: float = 1.0) -> list[WorkerStats]:
        """Ask the living workers, or the one of this id, how they are: what those say who answer within `timeout`
        seconds.

        A worker answers within a quarter of a second, also when it is busy. One that does not is stopped or hangs as a
        whole, or runs alone an event that has killed workers before. Returns when all have answered, else when the time
        is over. `[]` if there is none.
        """
        from eventq.worker.control import ping

        return ping(self.store, worker, timeout)

    def stop_worker(self, id: str, force: bool = False) -> None:
        """Ask a worker to stop gracefully, as SIGTERM does, or at once with `force`; it hears that within a quarter of
        a second. Not waited for: it has stopped when it is not in `workers()` any more, or serves nothing.

        One that runs under a supervisor (`eventq worker --processes 2`) is replaced. Raises UnknownWorker if no living
        worker has this id.
        """
        from eventq.worker.control import ask_to_stop

        ask_to_stop(self.store.storage, id, force)

    def get(self, id: str) -> Record | None:
        """Everything known of an event, in whatever queue; None if there is no such record (any more)."""
        return self.store.storage.get(id)

    def get_many(self, ids: Iterable[str]) -> list[Record | None]:
        """The records of many events, in order; None for each that there is none of."""
        return [self.store.storage.get(id) for id in ids]

    @overload
    def handle(self, id: str) -> Handle[Any]: ...
    @overload
    def handle(self, id: str, type: type[T]) -> Handle[T]: ...
    @overload
    def handle(self, id: str, type: Any) -> Handle[Any]: ...
    def handle(self, id: str, type: Any = Any) -> Handle[Any]:
        """The waiter's side of an event: its result, decoded to a type if one is given, or how it ended.

        Raises UnknownEvent for what is not an id. Whether there is such an event shows when it is asked.
        """
        return Handle(self.store, id, type)

    @overload
    def stream(self, id: str, type: type[T], *, start: int = 0, timeout: float | None = None) -> Stream[T]: ...
    @overload
    def stream(self, id: str, type: Any = Any, *, start: int = 0, timeout: float | None = None) -> Stream[Any]: ...
    def stream(self, id: str, type: Any = Any, *, start: int = 0, timeout: float | None = None) -> Stream[Any]:
        """What the event's handler yields, from the value `start` on, waiting `timeout` seconds for each: see
        `Stream`."""
        return Stream(self.store, id, type, start=start, timeout=timeout)

    def cancel(self, id: str, reason: str = "") -> str:
        """Cancel an event: `"cancelled"`, `"requested"` (it runs, and its worker was asked) or `"too late"`.

        `"unknown"` means that there is no record of it (any more). With the event of a run of a workflow the run is
        cancelled, as by `Run.cancel`: `"requested"`.
        """
        return self.store.cancel(None, [id], reason)[0]

    # ------------------------------------------------------------------ tasks

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, AsyncIterator[Y]], /) -> AsyncGeneratorTask[P, Y]: ...
    @overload
    def task(self, function: Callable[P, Iterator[Y]], /) -> GeneratorTask[P, Y]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        bind: Literal[True],
        cls: type[Task[Any, Any]] | None = None,
        **options: Unpack[TaskOptions],
    ) -> BindingDecorator: ...
    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        bind: Literal[False] = False,
        cls: type[Task[Any, Any]] | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskDecorator: ...
    def task(self, function: Any = None, /, **options: Any) -> Any:
        """Make a task of a function: `@app.task`, or `@app.task(max_attempts=3, timeout=30)`.

        Workers that import its module can run it, wherever it is enqueued. Its name is `module.function` (the file's
        name for a script) unless `name=` says another. With `bind=True` the function's first parameter takes the
        `Context` of the run, and callers leave it out. The options are those of `TaskOptions`; `cls` is a subclass of
        `Task` to make.

        Raises TypeError for what is no function, for a lambda, an unknown option, or a type hint that no argument can
        be converted to; ConfigError for an option that cannot be; DuplicateName if the name is taken.
        """
        cls, bind = options.pop("cls", None), options.pop("bind", False)
        said = {**known(options, TaskOptions, "a task"), "bind": bind}
        if function is None:
            return functools.partial(make_task, self, said, cls)
        return make_task(self, said, cls, function)

    def task_named(self, name: str, **options: Unpack[CallOptions]) -> Task[..., Any]:
        """A task by its name, without its code: what is enqueued waits for a worker that knows it.

        If it is defined here, that task, with the options. Otherwise arguments must be plain data, and nothing checks
        them.
        """
        task = self.tasks.get(text("the name of a task", name))
        if task is None:
            task = Task(self, None, {"name": name})
        return task.using(**options) if options else task

    def disable(self, task: Task[..., Any] | str, reason: str = "", by: str | None = None) -> bool:
        """Switch a task off in all processes, by itself or by its name, until `enable`. False if it was off before.

        From then on no worker starts it, first runs and retries alike, and no schedule puts runs of it: a worker knows
        within a quarter of a second, as long as the storage answers, and what has been started by then goes on. Calls
        are stored as ever, and wait; they count no attempt. `by` and `reason` are for those who ask `disabled()`.

        Plain queues, and what they hold of other tasks, are not concerned. Raises StorageError.
        """
        return disabled.disable(self.store.storage, _task_name(task), reason, by)

    def enable(self, task: Task[..., Any] | str) -> bool:
        """Switch a task on again; False if it was not off. The calls that have waited come back by themselves, the
        first within two seconds, and then 100 a second for each worker that has held them (fewer where it
        takes more than two milliseconds to hold one). Schedules go on with their next time."""
        return disabled.enable(self.store.storage, _task_name(task))

    def disabled(self) -> list[DisabledTask]:
        """The tasks that are switched off, by name: since when, by whom, and why."""
        return disabled.disabled(self.store.storage)

    def worker(
        self,
        queues: Iterable[str] | Mapping[str, int] | None = None,
        *,
        concurrency: int | None = None,
        executor: Executor | None = None,
        stop_timeout: float | None = None,
        max_tasks: int | None = None,
        max_bytes: int | None = None,
    ) -> Worker:
        """A worker for the tasks of this app: `app.worker().run()`.

        `queues`: names in the order in which they are served, or names with weights (`{"mail": 3, "bulk": 1}`);
        without, the queues of all tasks defined here. `concurrency`: how many events it runs at once. `executor`: where
        sync functions run, `"thread"`, `"process"` or `"inline"` (one by one). `stop_timeout`: the seconds that running
        tasks get when it stops. After `max_tasks` runs, or with more than `max_bytes` of memory, it stops by itself.
        What is not said here is said by the configuration.
        """
        from eventq.worker import Worker

        config = self.config
        return Worker(
            self,
            config.worker_queues if queues is None else queues,
            concurrency=config.concurrency if concurrency is None else concurrency,
            executor=config.executor if executor is None else executor,
            stop_timeout=config.stop_timeout if stop_timeout is None else stop_timeout,
            max_tasks=config.max_tasks if max_tasks is None else max_tasks,
            max_bytes=config.max_bytes if max_bytes is None else max_bytes,
        )

    @overload
    def schedule(
        self, name: str, cron: str, task: Task[..., Any], /, *args: Any, **options: Unpack[ScheduleOptions]
    ) -> None: ...
    @overload
    def schedule(self, name: str, task: Task[..., Any], /, *args: Any, **options: Unpack[ScheduleOptions]) -> None: ...
    @overload
    def schedule(self, name: str, cron: str, flow: Workflow, /, **options: Unpack[ScheduleOptions]) -> None: ...
    @overload
    def schedule(self, name: str, flow: Workflow, /, **options: Unpack[ScheduleOptions]) -> None: ...
    def schedule(self, name: str, /, *given: Any, **options: Any) -> None:
        """Declare that a task is to run at given times: `app.schedule("covers", "0 3 * * *", thumbnail, "cover.png")`,
        `app.schedule("prices", fetch, "eur", every=60)`; or that a run of a workflow is to be started, as the workflow
        is now: `app.schedule("nightly", "0 3 * * *", flow)`.

        Checked here, and stored when a worker of the program starts; then every worker of the store keeps it, also one
        that does not know the task, and each run is put once, however many there are. A run is a call of the task like
        any other; `task.using(priority=5)` says more about it. The options are those of `ScheduleOptions`. What is
        changed by `app.schedules` stays until the program declares something else; what it declares no more stays until
        it is removed there.

        A run is put at least once for its time, and twice only if a worker died between two steps and nobody went on
        for as long as the run's key is held: an hour, or the time of a thousand runs if that is less, and a minute at
        least. Hooks for `enqueue` are not asked.

        Raises TypeError, PayloadError for arguments that the task cannot take; ConfigError for times or options that
        cannot be; DuplicateName if the name is declared otherwise; MissingExtra for a cron expression without cronsim.
        """
        self.schedules.declare(name, given, options)

    def workflow(self, name: str) -> Workflow:
        """A new workflow, to add steps to: a step that is passed to another is its dependency.

            flow = app.workflow("cover")
            text = flow.step(load, "a.txt")
            flow.step(join, [flow.step(resize, text, width=64), flow.step(resize, text, width=128)])
            run = flow.start()

        Its steps run where their tasks do; any worker of the store keeps the run going, also one that knows none of
        them. A step is put once, and runs again only as every task does: it failed, or its worker died.
        """
        return Workflow(self, name)

    def workflow_from(self, data: Mapping[str, Any]) -> Workflow:
        """A workflow as `Workflow.to_dict` has given it; the code of its tasks is not needed. Raises ConfigError."""
        definition = from_dict(data)
        return Workflow(self, definition.name, definition)

    def job(self, name: str, stages: Any, **options: Unpack[JobOptions]) -> Job:
        """Declare a staged job, and return its handle: stages that run one after the other, each a call of a task or a
        list of calls that run side by side, with a record of how the last run stands.

            job = app.job("nightly", {"rows": (fetch, "{day}"), "parts": [(total, "{rows.eu}"), (total, "{rows.us}")],
                          "report": (report, "{day}: {parts[0]} and {parts[1]}")}, keywords={"day": "today"})
            job.start(day="2026-11-22").result()

        A stage is a task, a tuple `(task, argument, ...)`, a `Stage`, or a list of these; `stages` is a list of them,
        or a dict by name. Texts among the arguments are templates over the job's keywords and the results of earlier
        stages, by name or number: `{rows[0].id}`; nothing in them is evaluated. The options are those of `JobOptions`.

        Checked here, and stored when a worker of the program starts, or the job is started. A job has one run at a
        time. A run goes on wherever workers are, at the stage where it was, whatever dies; a call runs again only as
        every task does. When a stage fails for good, the run fails, and goes on as `max_retries` and `restart` say.

        Raises TypeError, ConfigError, TemplateError, PayloadError, each naming the field, or the stage; DuplicateName
        if the name is declared otherwise; MissingExtra for a cron expression without cronsim.
        """
        return self.jobs.declare(name, stages, dict(options))

    def chain(self, *calls: Any) -> Workflow:
        """A workflow of calls, one after the other, each a task or a tuple `(task, argument, ...)`: each takes the
        result of the one before as its first argument. `app.chain((load, "a.txt"), resize, (save, "b.txt")).start()`"""
        return flow.chain(self, calls)

    def group(self, calls: Iterable[Any]) -> Workflow:
        """A workflow of calls side by side; its result is the list of theirs."""
        return flow.group(self, calls)

    def chord(self, calls: Iterable[Any], body: Any) -> Workflow:
        """A workflow of calls side by side, and of one that takes the list of their results as its first argument."""
        return flow.chord(self, calls, body)

    def map(self, task: Task[..., Any], items: Iterable[Any]) -> Workflow:
        """A workflow that calls a task with each of the items; its result is the list of the results."""
        return flow.group(self, [(task, item) for item in items], "map")

    def use(self, middleware: Middleware) -> None:
        """Tell an object of yours what happens to tasks and workers here; several are told in order."""
        self.hooks.use(middleware)

    def on(self, hook: str, function: Callable[..., object]) -> None:
        """Tell one function about one thing, as `app.on("on_failure", report)`: see `Middleware` for the hooks."""
        self.hooks.on(hook, function)

    def options_for(self, task: str) -> dict[str, Any]:
        """What the configuration says of a task."""
        return task_options(self.config, task, {})

    def state_of(self, task: str) -> Any:
        """The object that all runs of a task in this process share, made when the first of them asks for it; None for a
        task without the option `state`."""
        make = self.tasks[task].options.state if task in self.tasks else None
        if make is None:
            return None
        with self._states_lock:
            if task not in self._states:
                self._states[task] = make()
            return self._states[task]

    # ------------------------------------------------------------------ names

    def claim_name(self, name: str, data: Any = None) -> bool:
        """Take a name for ever: True for exactly one caller over all processes, until the name is released.

        For what must happen once: `if app.claim_name("report-2026-11"): make_report()`. `data`, any JSON value, is kept
        with it for all to read. It outlives its process: for what must heal when that dies, take a `lock`. Raises
        ConfigError for a name that begins with `eventq.`: those are eventq's own; PayloadError for more than 1 MiB.
        """
        return self.store.storage.take_name(_own_name(name), pack_data(data))[1]

    def get_name(self, name: str) -> NamedClaim | None:
        """Who took a name, when, and with what data; None if it is free."""
        taken = self.store.storage.get_names([text("a name", name)]).get(name)
        return None if taken is None else _named(taken)

    def names(self, prefix: str = "") -> list[NamedClaim]:
        """The taken names that begin with a prefix, sorted; without eventq's own."""
        taken = self.store.storage.names(prefix)
        return [_named(each) for each in taken if not each.name.startswith(RESERVED_NAMES)]

    def release_name(self, name: str) -> bool:
        """Free a name, whoever took it; False if it was free."""
        return self.store.storage.release_name(_own_name(name))

    # ------------------------------------------------------------------ locks

    def lock(self, name: str) -> Lock:
        """A lock over all processes: `with app.lock("import"):`. It is free at once when its holder dies."""
        return Lock(self.store, name)

    def semaphore(self, name: str, limit: int) -> Semaphore:
        """A semaphore over all processes: at most `limit` hold it, and a dead holder's place is free at once."""
        return Semaphore(self.store, name, limit)


def _task_name(task: Task[..., Any] | str) -> str:
    return task.name if isinstance(task, Task) else text("the name of a task", task)


def _own_name(name: str) -> str:
    if text("a name", name).startswith(RESERVED_NAMES):
        raise ConfigError(f"names that begin with {RESERVED_NAMES!r} are eventq's own, as {name!r}; take another")
    return name


def _named(taken: Name) -> NamedClaim:
    return NamedClaim(taken.name, taken.worker, clock.aware(taken.at), JSON.decode(bytes(taken.data)))
