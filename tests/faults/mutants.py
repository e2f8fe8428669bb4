"""Takes away one `fsync` or one lock of the file storage, at the place where it is called."""

from __future__ import annotations

import ast
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import eventq.storage.file
from eventq.storage.file import disk

SYNCS = ("sync", "sync_folder")
LOCKS = ("try_lock", "lock_soon", "try_hold")
LOOKING_ONLY = ("fsck", "probe", "disk")
"""Modules that change nothing; `disk` has the functions themselves."""
FOLDER = Path(eventq.storage.file.__file__).parent


class Site(msgspec.Struct, frozen=True):
    """A call of `disk.sync` and the like."""

    name: str
    """`<module>.<function>:<call>`, and a number where there are several."""
    file: str
    first: int
    last: int
    call: str


@functools.cache
def sites() -> dict[str, Site]:
    """Every call that makes something durable or takes a lock."""
    found: dict[str, Site] = {}
    for path in sorted(FOLDER.glob("*.py")):
        if path.stem not in LOOKING_ONLY:
            for function, call, node in _calls(ast.parse(path.read_text())):
                base = name = f"{path.stem}.{function}:{call}"
                if name in found:
                    name += f" {sum(other.startswith(base) for other in found) + 1}"
                found[name] = Site(name, str(path), node.lineno, node.end_lineno or node.lineno, call)
    return found


def _calls(tree: ast.AST, function: str = "") -> Iterator[tuple[str, str, ast.Call]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "disk" and node.func.attr in (*SYNCS, *LOCKS):
                yield function, node.func.attr, node
        inner = node.name if isinstance(node, ast.FunctionDef) else function
        yield from _calls(node, inner)


class Mutant:
    """One call that says it did its work, and does nothing."""

    def __init__(self, name: str) -> None:
        self.site = sites()[name]
        self.spared: Counter[str] = Counter()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """On top of whatever stands in for the disk already."""
        real: Callable[..., Any] = getattr(disk, self.site.call)

        def call(*args: Any) -> Any:
            frame = sys._getframe(1)
            if frame.f_code.co_filename == self.site.file and self.site.first <= frame.f_lineno <= self.site.last:
                self.spared[self.site.name] += 1
                return None if self.site.call in SYNCS else True
            return real(*args)

        patch.setattr(disk, self.site.call, call)
