"""Tasks: functions that run elsewhere and later, made by `@app.task`."""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

import msgspec

from eventq.arguments import Arguments, Call
from eventq.claim import current
from eventq.codec import packer
from eventq.config import known, module_of
from eventq.context import Context
from eventq.errors import ConfigError, DuplicateName, QueueFull, UnknownTask
from eventq.handle import Handle
from eventq.inbox import came_too_late, inbox_of, put_addressed, serving
from eventq.model import PutOptions
from eventq.options import RUN_OPTIONS, CallOptions, Options, checked
from eventq.put import put_encoded, put_options, puts_of, when_there_is_room
from eventq.stream import StreamHandle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
    from typing import Self, Unpack

    from eventq.aio import AsyncTask
    from eventq.app import App

P = ParamSpec("P")
R = TypeVar("R")
Y = TypeVar("Y")
R_co = TypeVar("R_co", covariant=True)

log: logging.Logger = logging.getLogger("eventq.task")

RUN_HEADER = "eventq.run"
"""The header of an event that carries options for its run, of a call that was given them."""
RESERVED = "eventq."
"""So begins the name of no task: workers are asked for things of their own by such names."""
UNKNOWN = math.inf
"""How long a run takes of which there was none yet."""
KEYED = frozenset({"unique", "if_exists", "throttle", "debounce", "debounce_max"})
"""Options of a put with a key. Said of a task, they hold for the calls that have one."""
CHANGING = frozenset({"delay", "at", "expires", "key", "throttle", "debounce", "debounce_max", "headers"})
"""Options of a put that have to be worked out for each."""


class Task(Generic[P, R]):
    """A function that workers run; made by `@app.task`. Calling it runs it here, as the plain function that it is.

    `enqueue(...)` takes the function's own arguments, checks them, stores the call, and returns the handle of its
    event. Options for single calls are said by `using(...)`, and so never mix with arguments. Tasks are light, and may
    be used by many threads.
    """

    __slots__ = (
        "_decorated", "_pack_result", "_plain", "_said", "app", "arguments", "function", "name", "on_loop", "options",
        "usual", "yields",
    )  # fmt: skip

    def __init__(
        self,
        app: App,
        function: Callable[..., Any] | None,
        decorated: Mapping[str, Any],
        said: Mapping[str, Any] | None = None,
    ) -> None:
        self.app: App = app
        """The app that it belongs to."""
        self.function: Callable[..., Any] | None = function
        """What it runs; None for a task that is only known by name here."""
        self._decorated = decorated
        self._said: Mapping[str, Any] = said or {}
        self.name: str = decorated["name"]
        """Its name in events, the same in all processes."""
        self.options: Options = checked({**_for_keys(app, self.said_before, self._said), **self._said})
        """What it comes to: said for this call, configured, decorated, or default."""
        put_options(app.store, **self.options.put)  # what cannot be is refused where it is said
        self.arguments: Arguments | None = None
        """How its arguments become data; None for a task that is only known by name here."""
        self.on_loop: bool = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        """Whether its runs go on an event loop."""
        self.yields: bool = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        """Whether its runs yield values."""
        self.usual: float = UNKNOWN
        """How many seconds a run took lately, in this process."""
        if function is not None and said is None:
            self.arguments = Arguments(function, self.name, app.store.codec, bound=self.options.bind)
        self._pack_result: Callable[[Any], bytes] | None = None
        self._plain: PutOptions | None = None
        """The same for every put, if nothing in it has to be worked out for each."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now, as if it were no task."""
        if self.function is None:
            raise UnknownTask(f"task {self.name} is only known by its name here; enqueue() it, or import its module")
        context = (Context(self.app, self.name),) if self.options.bind else ()
        result: R = self.function(*context, *args, **kwargs)
        return result

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Store a call for a worker to run, and return the handle of its event. Durable when it returns.

        Raises TypeError if the function could not be called so; PayloadError for an argument without a type hint that
        would not come back equal; QueueFull, DuplicateKey, StorageError as `Queue.put` does; UnknownWorker if it is for
        a worker (`using(worker=...)`) that is not there.
        """
        return Handle(self.app.store, self.put(args, kwargs), self.result_type)

    def enqueue_many(self, calls: Iterable[Sequence[Any]]) -> list[Handle[R]]:
        """Store many calls, each given by its positional arguments (`[("a.png",), ("b.png", 64)]`), all of them or
        none, and return their handles in order; much cheaper than one by one.

        Raises what `enqueue` raises; ConfigError if a key or a worker is said; PayloadError for more than 100,000.
        """
        return [Handle(self.app.store, id, self.result_type) for id in self._put_many(calls)]

    def broadcast(self, *args: P.args, **kwargs: P.kwargs) -> list[Handle[R]]:
        """Store one call for each living worker that knows the task, and return the handles of their events.

        Each runs on its own worker, or ends as cancelled if that goes before it is done. Workers that come later get
        nothing; `[]` if there are none. Raises what `enqueue` raises; not all may have been told then.
        """
        return [Handle(self.app.store, id, self.result_type) for id in self._put_to_all(args, kwargs)]

    def using(self, **options: Unpack[CallOptions]) -> Self:
        """The same task with other options, for the calls made through what this returns:
        `task.using(delay=60).enqueue()`.

        What was said of the task itself does not change. Raises TypeError for an unknown option, ConfigError for a
        value that cannot be.
        """
        said = {**self._said, **known(options, CallOptions, "using()")}
        if said.get("worker") is not None and "queue" in said:
            raise ConfigError("worker= and queue= both say where it goes; give one of them")
        other = type(self)(self.app, self.function, self._decorated, said)
        other.arguments = self.arguments
        return other

    @property
    def aio(self) -> AsyncTask[P, R]:
        """The same, awaitable."""
        from eventq.aio import AsyncTask

        return AsyncTask(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    # ------------------------------------------------------------------ what the layers above build on

    @property
    def result_type(self) -> Any:
        """What the function returns, by its hint."""
        return Any if self.arguments is None else self.arguments.returns

    def put(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Store a call; the id of its event."""
        return self._put_by(self.put_packed, args, kwargs)

    def _put_by(self, store: Callable[[bytes], str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        hooks = self.app.hooks
        if hooks.before_enqueue:
            hooks.ask("before_enqueue", self, args, kwargs)
        id = store(self.pack(args, kwargs))
        if hooks.after_enqueue:
            hooks.tell("after_enqueue", self, id)
        return id

    def _put_many(self, calls: Iterable[Sequence[Any]]) -> list[str]:
        """Store many calls, all or none; the ids of their events."""
        if self.options.put.get("key") is not None or self.options.worker is not None:
            raise ConfigError("enqueue_many() takes no key= and no worker=; enqueue() such calls one by one")
        hooks, packed = self.app.hooks, []
        for number, args in enumerate(calls):
            if isinstance(args, str | bytes) or not isinstance(args, Sequence):
                raise TypeError(f"call {number} is no sequence of arguments, but {args!r}; write ({args!r},)")
            if hooks.before_enqueue:
                hooks.ask("before_enqueue", self, args, {})
            packed.append(self.pack(args, {}))
        ids = self._stored_many(packed) if packed else []
        for id in ids:
            if hooks.after_enqueue:
                hooks.tell("after_enqueue", self, id)
        return ids

    def _put_to_all(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
        """Store a call for each living worker that knows the task; the ids of their events."""
        if self.options.connection is not None:
            raise ConfigError("broadcast() is for workers that live now; leave connection= out")
        if self.options.worker is not None or "queue" in self._said:
            raise ConfigError("broadcast() goes to every worker that knows the task; leave worker= and queue= out")
        self.pack(args, kwargs)  # what could not be called is refused, whoever is there
        storage = self.app.store.storage
        put: dict[str, str] = {}
        for worker in serving(storage):
            if self.name in worker.tasks:
                store = functools.partial(self._stored, inbox_of(worker.id))
                put[worker.id] = self._put_by(store, args, kwargs)
        late = came_too_late(storage, put)
        return [id for worker, id in put.items() if worker not in late]

    @property
    def said_before(self) -> dict[str, Any]:
        """Its options without those of single calls."""
        return {**self._decorated, **self.app.options_for(self.name)}

    def pack_result(self, value: Any) -> bytes:
        """A result as data. Raises PayloadError if it does not fit the hint, or would not come back equal."""
        if self._pack_result is None:
            self._pack_result = packer(self.app.store.codec, self.result_type)
        return self._pack_result(value)

    def pack(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """A call as data, checked as far as the function is known here."""
        if self.arguments is not None:
            return self.arguments.pack(args, kwargs)
        return packer(self.app.store.codec, Call)(Call(self.name, list(args), dict(kwargs)))

    def put_packed(self, data: bytes) -> str:
        """Store a call that is packed already; the id of its event."""
        options = self.options
        if options.worker is not None:
            return put_addressed(self.app.store.storage, options.worker, lambda: self._stored(options.queue, data))
        return self._stored(options.queue, data)

    def _stored(self, queue: str, data: bytes) -> str:
        options, store = self.options, self.app.store
        puts = puts_of(store, options.connection)
        if self._plain is not None and current.get() is None:
            try:
                return puts.put(queue, (data,), self._plain)[0]
            except QueueFull:
                log.debug("%s is full: waiting for room", queue)
        if_exists = options.put.get("if_exists", "return")

        def attempt() -> str:
            return put_encoded(puts, queue, data, self._put_options(), if_exists)

        return when_there_is_room(store, attempt, options.put_timeout, options.connection)

    def _stored_many(self, packed: list[bytes]) -> list[str]:
        options, store = self.options, self.app.store
        puts = puts_of(store, options.connection)

        def attempt() -> list[str]:
            return puts.put(options.queue, packed, self._put_options())

        return when_there_is_room(store, attempt, options.put_timeout, options.connection)

    def put_later(self, refused: Sequence[str], why: str) -> dict[str, Any]:
        """What a put says about calls that somebody else puts later, each with a key of its own: a schedule, a run of a
        workflow. Raises ConfigError for options that belong to a single call: those that are `refused`, `worker` and
        `connection`; it says `why`."""
        options = self.options
        said = [name for name in refused if options.put.get(name) is not None]
        said += [name for name in ("worker", "connection") if getattr(options, name) is not None]
        if said:
            raise ConfigError(f"{self.name} has {said[0]}=, which is for single calls: {why}; leave it out")
        token = current.set(None)  # the headers of an event that is being handled here are not those of all calls
        try:
            put = self._put_options()
        finally:
            current.reset(token)
        names = ("codec", "priority", "headers", "limits", "rates", "max_attempts", "max_crashes", "keep")
        about = {name: getattr(put, name) for name in names}
        return {"queue": options.queue, "expires": options.put.get("expires"), **about}

    def _put_options(self) -> PutOptions:
        options = self.options
        given = dict(options.put)
        if options.concurrency is not None:
            given["limits"] = {**(given.get("limits") or {}), f"task:{self.name}": options.concurrency}
        if travelling := {name: self._said[name] for name in RUN_OPTIONS if name in self._said}:
            given["headers"] = {**(given.get("headers") or {}), RUN_HEADER: travelling}
        made = msgspec.structs.replace(
            put_options(self.app.store, **given),
            max_attempts=options.retry.max_attempts,
            max_crashes=options.max_crashes,
            keep=options.keep,
        )
        if not CHANGING & given.keys() and current.get() is None:
            self._plain = made
        return made


class CoroutineTask(Task[P, R]):
    """A task whose function is a coroutine function. Calling it gives the coroutine; its runs go on an event loop."""

    __slots__ = ()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        """The coroutine of the function, to be awaited here, as if it were no task."""
        return super().__call__(*args, **kwargs)  # type: ignore[return-value]


class GeneratorTask(Task[P, None], Generic[P, Y]):
    """A task whose function is a generator function: what it yields can be read while it runs."""

    __slots__ = ()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[Y]:  # type: ignore[override]
        """The generator of the function, to be run here, as if it were no task."""
        return super().__call__(*args, **kwargs)  # type: ignore[return-value]

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> StreamHandle[Y]:
        """As `Task.enqueue`; the handle gives what was yielded, in order, as it comes: `for value in handle`."""
        assert self.arguments is not None
        return StreamHandle(self.app.store, self.put(args, kwargs), self.result_type, self.arguments.yields)

    def enqueue_many(self, calls: Iterable[Sequence[Any]]) -> list[StreamHandle[Y]]:  # type: ignore[override]
        """As `Task.enqueue_many`; each handle gives what its own run yields."""
        assert self.arguments is not None
        store, yields = self.app.store, self.arguments.yields
        return [StreamHandle(store, id, self.result_type, yields) for id in self._put_many(calls)]

    def broadcast(self, *args: P.args, **kwargs: P.kwargs) -> list[StreamHandle[Y]]:  # type: ignore[override]
        """As `Task.broadcast`; each handle gives what its worker's run yields."""
        assert self.arguments is not None
        store, yields = self.app.store, self.arguments.yields
        return [StreamHandle(store, id, self.result_type, yields) for id in self._put_to_all(args, kwargs)]


class AsyncGeneratorTask(GeneratorTask[P, Y]):
    """As `GeneratorTask`, of an async generator function."""

    __slots__ = ()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Y]:  # type: ignore[override]
        """The async generator of the function, to be run here, as if it were no task."""
        return super().__call__(*args, **kwargs)  # type: ignore[return-value]


def _for_keys(app: App, before: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """What was said of a task, without how long keys are held if the call has none. Refused if it cannot be."""
    if said.get("key", before.get("key")) is not None:
        return dict(before)
    held = {name: before[name] for name in KEYED if name in before}
    if held:
        put_options(app.store, key="any", **held)
    return {name: value for name, value in before.items() if name not in KEYED}


# ---------------------------------------------------------------- making them


class TaskDecorator(Protocol):
    """What `@app.task(...)` gives: it makes a task of a function."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, AsyncIterator[Y]], /) -> AsyncGeneratorTask[P, Y]: ...
    @overload
    def __call__(self, function: Callable[P, Iterator[Y]], /) -> GeneratorTask[P, Y]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BindingDecorator(Protocol):
    """What `@app.task(bind=True, ...)` gives: callers leave the first parameter out, which takes the context."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /
    ) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, P], AsyncIterator[Y]], /
    ) -> AsyncGeneratorTask[P, Y]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], Iterator[Y]], /) -> GeneratorTask[P, Y]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], R], /) -> Task[P, R]: ...


def make_task(app: App, said: Mapping[str, Any], cls: type[Task[Any, Any]] | None, function: Any) -> Task[Any, Any]:
    """Register a function as a task. Raises TypeError for what cannot be one, DuplicateName if its name is taken."""
    name = task_name(app, function, said.get("name"))
    if isinstance(name, str) and name.startswith(RESERVED):
        raise ConfigError(f"names of tasks do not begin with {RESERVED!r}, as {name!r} does; give it another")
    decorated = {**said, "name": name}
    if cls is None:
        cls = _class_for(function)
    elif not (isinstance(cls, type) and issubclass(cls, Task)):
        raise TypeError(f"cls= takes a subclass of eventq.Task, not {cls!r}")
    task = cls(app, function, decorated)
    if task.options.executor == "process" and "<locals>" in function.__qualname__:
        raise TypeError(
            f"task {name} has executor='process', but its function is defined inside another, where no other process "
            "finds it; define it at the top of a module"
        )
    if name in app.tasks:
        raise DuplicateName(f"there is a task {name!r} already; say name= to tell them apart")
    app.tasks[name] = task
    return task


def task_name(app: App, function: Any, given: Any = None) -> Any:
    """The name of a function in events, if none is given. Raises TypeError for what cannot be a task, and says why."""
    if isinstance(function, Task):
        raise TypeError(f"{function!r} is a task already")
    if not inspect.isroutine(function) or not hasattr(function, "__qualname__"):
        raise TypeError(f"a task is made of a function, not of {function!r}")
    qualname: str = function.__qualname__
    if "<lambda>" in qualname:
        raise TypeError("a lambda has no name by which a worker could find it; write a function with def")
    if given is not None:
        return given
    if "<locals>" in qualname and app.store.storage.shared:
        raise ConfigError(
            f"{qualname} is defined inside another function: a worker that imports its module does not find it there; "
            "define it at the top of a module, or give it a name= and see that every worker makes it"
        )
    return f"{module_of(function)}.{qualname}"


def _class_for(function: Any) -> type[Task[Any, Any]]:
    if inspect.iscoroutinefunction(function):
        return CoroutineTask
    if inspect.isasyncgenfunction(function):
        return AsyncGeneratorTask
    return GeneratorTask if inspect.isgeneratorfunction(function) else Task
