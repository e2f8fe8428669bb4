"""The public namespace: what is exported, documented, typed, and how little importing it loads."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import eventq
from eventq.aio import AsyncApp, AsyncClaim, AsyncHandle, AsyncQueue, AsyncSemaphore, AsyncTask, AsyncWorker
from eventq.config import QueueSettings
from eventq.job.aio import AsyncJob, AsyncJobs
from eventq.model import Settings
from eventq.notifications.aio import AsyncNotifications
from eventq.schedule.aio import AsyncSchedules
from eventq.workflow.aio import AsyncNodeHandle, AsyncRun, AsyncWorkflow, AsyncWorkflows

if TYPE_CHECKING:
    from collections.abc import Iterator

PUBLIC = [name for name in eventq.__all__ if not name.startswith("__")]


def test_everything_exported_is_there_and_sorted() -> None:
    assert eventq.__all__ == sorted(eventq.__all__)
    assert len(set(eventq.__all__)) == len(eventq.__all__)
    for name in eventq.__all__:
        assert hasattr(eventq, name), name


def test_nothing_public_is_forgotten() -> None:
    found = {
        name
        for name, value in vars(eventq).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert found == set(PUBLIC)


def test_every_error_is_exported() -> None:
    errors = {
        name
        for name, value in vars(eventq.errors).items()
        if inspect.isclass(value) and issubclass(value, eventq.EventqError)
    }
    assert errors <= set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_class_is_documented(name: str) -> None:
    cls = getattr(eventq, name)
    own = vars(cls).get("__doc__") or ""
    assert len(own) > 20, f"{name} has no docstring of its own"
    if own.startswith(f"{name}("):
        pytest.fail(f"{name} has only the docstring that was made for it")


def public_methods(cls: type) -> Iterator[tuple[str, Any]]:
    for name, value in inspect.getmembers(cls):
        if name.startswith("_") or name in dir(Exception) or name in dir(str) or name in dir(dict):
            continue
        if inspect.isfunction(value) or isinstance(value, property):
            yield name, value


def documented(cls: type, name: str) -> bool:
    """By itself, or by the method of a base class that it implements."""
    return any(name in vars(base) and vars(base)[name].__doc__ for base in cls.__mro__)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_method_is_documented(name: str) -> None:
    cls = getattr(eventq, name)
    missing = [method for method, _ in public_methods(cls) if not documented(cls, method)]
    assert not missing, f"{name}: {missing}"


# ---------------------------------------------------------------- the async twins

TWINS = [
    (eventq.App, AsyncApp),
    (eventq.Queue, AsyncQueue),
    (eventq.Claim, AsyncClaim),
    (eventq.Handle, AsyncHandle),
    (eventq.Task, AsyncTask),
    (eventq.Worker, AsyncWorker),
    (eventq.Schedules, AsyncSchedules),
    (eventq.Job, AsyncJob),
    (eventq.Jobs, AsyncJobs),
    (eventq.Notifications, AsyncNotifications),
    (eventq.Workflow, AsyncWorkflow),
    (eventq.Workflows, AsyncWorkflows),
    (eventq.Run, AsyncRun),
    (eventq.NodeHandle, AsyncNodeHandle),
    (eventq.Lock, AsyncSemaphore),
    (eventq.Semaphore, AsyncSemaphore),
]

NEVER_BLOCKS = {
    eventq.App: {
        "handle",
        "lock",
        "job",
        "schedule",
        "semaphore",
        "stream",
        "task",
        "task_named",
        "worker",
        "use",
        "on",
        "options_for",
        "state_of",
        "workflow",
        "workflow_from",
        "chain",
        "group",
        "chord",
        "map",
    },
    eventq.Queue: {"handle", "payload_of"},
    eventq.Claim: {"carried"},
    eventq.Handle: set(),
    eventq.Task: {"using", "pack", "pack_result", "put", "put_later", "put_packed"},
    eventq.Worker: {"stats", "stop"},
    eventq.Schedules: {"declare", "firing"},
    eventq.Job: set(),
    eventq.Jobs: {"declare", "job"},
    eventq.Notifications: {"prune_box"},
    eventq.Workflow: {"scheduled", "input", "step", "returns", "definition", "to_dict", "mermaid", "svg"},
    eventq.Workflows: {"begin", "run", "start", "go_on", "type_of", "type_of_result", "type_of_step"},
    eventq.Run: set(),
    eventq.NodeHandle: set(),
    eventq.Lock: set(),
    eventq.Semaphore: set(),
}
"""Methods that make an object or compute, and so have no twin."""


def functions(cls: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")}


@pytest.mark.parametrize(("sync", "view"), TWINS, ids=lambda cls: cls.__name__)
def test_what_can_block_has_a_twin(sync: type, view: type) -> None:
    assert set(functions(view)) == set(functions(sync)) - NEVER_BLOCKS[sync]


@pytest.mark.parametrize(("sync", "view"), TWINS, ids=lambda cls: cls.__name__)
def test_twins_have_the_same_signature(sync: type, view: type) -> None:
    for name, method in functions(view).items():
        mine, theirs = inspect.signature(method), inspect.signature(functions(sync)[name])
        assert mine.parameters == theirs.parameters, name
        returned = str(theirs.return_annotation)
        expected = returned
        if returned.startswith("Iterator["):
            expected = f"AsyncGenerator[{returned.removeprefix('Iterator[').removesuffix(']')}, None]"
        assert mine.return_annotation == expected, name
        assert inspect.iscoroutinefunction(method) is not returned.startswith("Iterator["), name


@pytest.mark.parametrize(("sync", "view"), TWINS, ids=lambda cls: cls.__name__)
def test_twins_are_documented_by_reference(sync: type, view: type) -> None:
    owners = [cls.__name__ for cls in sync.__mro__]
    for name, method in functions(view).items():
        assert any(f"`{owner}.{name}`" in (method.__doc__ or "") for owner in owners), name


# ---------------------------------------------------------------- options


def test_settings_are_all_there() -> None:
    stored = set(Settings.__struct_fields__) - {"paused", "paused_until"}
    assert set(QueueSettings.__annotations__) == stored


# ---------------------------------------------------------------- import


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.split())


def test_importing_loads_little() -> None:
    added = loaded_by("import eventq") - loaded_by("import filelock, msgspec")
    heavy = {
        "argparse",
        "asyncio",
        "concurrent.futures",
        "email",
        "http",
        "inspect",
        "json",
        "multiprocessing",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "tempfile",
        "unittest",
        "urllib.request",
    }
    assert not added & heavy
    foreign = {name.partition(".")[0] for name in added} - set(sys.stdlib_module_names) - {"eventq"}
    assert not foreign - {"filelock", "msgspec"}


def test_no_storage_is_loaded_before_its_url_is_used() -> None:
    loaded = loaded_by("import eventq")
    assert not {name for name in loaded if name.startswith(("eventq.storage.memory", "eventq.storage.file"))}
    used = loaded_by("import eventq; eventq.App('memory://').queue('q').put(1)")
    assert "eventq.storage.memory" in used
    assert "eventq.storage.file" not in used
    assert "asyncio" not in used
