"""The work of `eventq demo`: what is in a Python file. Run as a module, it is one of the demo's workers."""

from __future__ import annotations

import ast
import os
import signal
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from types import FrameType

QUEUE = "files"
MAX_BYTES = 16 * 1024
"""Longer files are left out: a few of them would take most of the time."""


class Survey(msgspec.Struct, frozen=True):
    """What was counted in a file, or in all of them."""

    files: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    imports: int = 0
    unparsable: int = 0

    def __add__(self, other: Survey) -> Survey:
        return Survey(*(one + two for one, two in zip(msgspec.structs.astuple(self), _tuple(other), strict=True)))


def _tuple(survey: Survey) -> tuple[int, ...]:
    return tuple(msgspec.structs.astuple(survey))


def library() -> tuple[Path, list[str]]:
    """The folder of this interpreter's standard library, and the files in it to survey, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "site-packages" not in path.parts and "dist-packages" not in path.parts
        if path.is_file() and path.stat().st_size <= MAX_BYTES
    ]
    return root, sorted(files)


def survey(path: Path) -> Survey:
    """Count the lines, functions, classes and imports of one file."""
    source = path.read_bytes()
    lines = source.count(b"\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's tests contain strange code on purpose
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return Survey(files=1, lines=lines, unparsable=1)
    functions = classes = imports = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions += 1
        elif isinstance(node, ast.ClassDef):
            classes += 1
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imports += 1
    return Survey(files=1, lines=lines, functions=functions, classes=classes, imports=imports)


def work(url: str) -> None:
    """Take one file after another until SIGTERM, or until the demo itself is gone."""
    from eventq.app import App

    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the demo ends its workers
    root = Path(sysconfig.get_path("stdlib"))
    parent = os.getppid()
    with App(url) as app:
        queue = app.queue(QUEUE)
        while os.getppid() == parent:
            for claim in queue.claims(timeout=1.0):
                claim.complete(msgspec.to_builtins(survey(root / claim.event.payload)))


def _leave(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise SystemExit(0)


if __name__ == "__main__":
    work(sys.argv[1])
