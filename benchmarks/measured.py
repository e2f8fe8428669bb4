"""What all that is measured has in common: queues (`systems/`) and task queues (`tasks/`)."""

from __future__ import annotations

import abc
import contextlib
import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path


class Measured(abc.ABC):
    """One system in one way of running it."""

    name: ClassVar[str]
    """As typed after --systems."""
    family: ClassVar[str]
    """The project; its relaxed and durable ways of running share a column."""
    note: ClassVar[str] = ""
    """How it is run, in a few words."""
    modes: ClassVar[frozenset[str]] = frozenset({"relaxed"})
    """Queues: `relaxed`, a put survives its process; `durable`, it survives a power cut.
    Task queues: `threads`, they run functions in threads; `asyncio`, coroutine functions on a loop."""
    requires: ClassVar[str | None] = None
    """The module that must be importable, and the distribution whose version is shown."""
    distribution: ClassVar[str | None] = None
    driver: ClassVar[str | None] = None
    """A further module that must be importable."""
    imports: ClassVar[str] = ""
    """What a program imports to use it; `preloads` is not counted."""
    preloads: ClassVar[str] = ""
    at_most_once: ClassVar[bool] = False
    """A claimer killed between claim and settle loses the event: it does less than the others."""
    recovers: ClassVar[bool] = False
    """The event of a killed claimer moves on by itself."""
    binary: ClassVar[bool] = False
    batches: ClassVar[bool] = True
    """Has a call, or a transaction, that puts many at once."""
    keeps: ClassVar[bool] = False
    """Keeps what is done, with its value: see `System.remember`."""

    @abc.abstractmethod
    def __init__(self, folder: Path) -> None: ...

    @abc.abstractmethod
    def close(self) -> None: ...

    @classmethod
    def missing(cls) -> str | None:
        """Why this system cannot be measured here; None if it can."""
        for module, distribution in ((cls.requires, cls.distribution), (cls.driver, None)):
            if module is not None and importlib.util.find_spec(module) is None:
                return f"not installed: pip install {distribution or module}"
        return None

    @classmethod
    def version(cls) -> str:
        return importlib.metadata.version(cls.distribution or cls.requires or "")

    @classmethod
    def server(cls, folder: Path) -> AbstractContextManager[None]:
        """Around each cell: a system with a server starts and stops a private one here."""
        return contextlib.nullcontext()
