"""A private Redis server for one cell, on a Unix socket in the cell's folder."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def socket(folder: Path) -> Path:
    return folder / "redis.sock"


def missing() -> str | None:
    found = shutil.which("redis-server") is not None
    return None if found else "not installed: redis-server is not on the PATH"


def version() -> str:
    answer = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\S+)", answer)
    return found.group(1) if found else "server"


@contextlib.contextmanager
def running(folder: Path, *options: str) -> Iterator[None]:
    """Writes nothing to disk unless the options say so."""
    path = socket(folder)
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--dir", str(folder), "--save", "", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while not path.exists():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("redis-server did not start")
            time.sleep(0.01)
        yield
    finally:
        process.kill()
        process.wait()
