"""Real programs for tests: written to a folder, run by Python, bounded, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.running import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text), "utf-8")
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error"}


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process; killed in the end if it is still there."""
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit code and what it wrote; fails the test if it does not end."""
    out, err = process.communicate(timeout=PATIENCE * 2)
    return process.returncode, out, err


def run(folder: Path, *arguments: str) -> str:
    """What a program prints that must succeed."""
    with started(folder, *arguments) as process:
        code, out, err = ended(process)
    assert code == 0, err
    return out


def wait_for_file(path: Path, process: subprocess.Popen[str]) -> None:
    until(lambda: path.exists() or process.poll() is not None, str(path))
    assert path.exists(), process.communicate(timeout=PATIENCE)


TERM, INT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL
