"""Hooks: code of yours that is told what happens to tasks and workers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from eventq.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventq.context import Context
    from eventq.task import Task
    from eventq.worker import Worker

log: logging.Logger = logging.getLogger("eventq.hooks")


class Middleware:
    """Subclass it, override what you want to be told, and hand an instance to `app.use(...)`.

    One function for one hook is shorter with `app.on("on_failure", function)`. Several are called in the order in which
    they were added. They run in the thread, or on the event loop, where the task runs, before the event is settled:
    what they put is not lost if the worker dies, and may then be put twice. An error in one is logged and changes
    nothing, except in `before_enqueue` and `before_run`, which may refuse.
    """

    def before_enqueue(self, task: Task[Any, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A call is about to be stored. What it raises, `enqueue` raises, and nothing is stored."""

    def after_enqueue(self, task: Task[Any, Any], id: str) -> None:
        """A call was stored (or another held its key)."""

    def before_run(self, context: Context) -> None:
        """A run begins. An Exception from here counts as the run's own."""

    def after_run(self, context: Context) -> None:
        """A run is over, however."""

    def on_success(self, context: Context, value: Any) -> None:
        """The function returned."""

    def on_retry(self, context: Context, error: BaseException) -> None:
        """The run failed, and there will be another."""

    def on_failure(self, context: Context, error: BaseException) -> None:
        """The run failed, and there will be no other: a dead letter."""

    def on_complete(self, context: Context) -> None:
        """The task has ended: after `on_success` or `on_failure`."""

    def worker_started(self, worker: Worker) -> None:
        """A worker is about to claim its first event."""

    def worker_stopped(self, worker: Worker) -> None:
        """A worker runs nothing any more."""


HOOKS = tuple(name for name in vars(Middleware) if not name.startswith("_"))


class Hooks:
    """The hooks of an app, by name; one that nobody uses costs a look at an empty tuple."""

    def __init__(self) -> None:
        self.before_enqueue: tuple[Callable[..., object], ...] = ()
        self.after_enqueue: tuple[Callable[..., object], ...] = ()
        self.before_run: tuple[Callable[..., object], ...] = ()
        self.after_run: tuple[Callable[..., object], ...] = ()
        self.on_success: tuple[Callable[..., object], ...] = ()
        self.on_retry: tuple[Callable[..., object], ...] = ()
        self.on_failure: tuple[Callable[..., object], ...] = ()
        self.on_complete: tuple[Callable[..., object], ...] = ()
        self.worker_started: tuple[Callable[..., object], ...] = ()
        self.worker_stopped: tuple[Callable[..., object], ...] = ()

    def use(self, middleware: Middleware) -> None:
        """Add whatever the object overrides. Raises TypeError for what is no Middleware."""
        if not isinstance(middleware, Middleware):
            raise TypeError(f"use() takes an instance of a subclass of eventq.Middleware, not {middleware!r}")
        for name in HOOKS:
            if getattr(type(middleware), name) is not getattr(Middleware, name):
                self.on(name, getattr(middleware, name))

    def on(self, name: str, function: Callable[..., object]) -> None:
        """Add one function to one hook. Raises ConfigError for a hook that there is not."""
        if name not in HOOKS:
            raise ConfigError(f"no hook {name!r}; there are {', '.join(HOOKS)}")
        if not callable(function):
            raise TypeError(f"a hook is a function, not {function!r}")
        setattr(self, name, (*getattr(self, name), function))

    def tell(self, name: str, *about: Any, also: Callable[..., object] | None = None) -> None:
        """Call all functions of a hook, and `also` one of the task's own; errors are logged."""
        functions: tuple[Callable[..., object], ...] = getattr(self, name)
        for function in functions if also is None else (*functions, also):
            try:
                function(*about)
            except Exception:
                log.exception("a hook for %s failed; what it was told about goes on", name)

    def ask(self, name: str, *about: Any) -> None:
        """Call all functions of a hook that may refuse: what one raises is raised."""
        for function in getattr(self, name):
            function(*about)
