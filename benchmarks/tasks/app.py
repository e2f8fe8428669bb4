"""eventq's app, in every process of a cell or a torture: on the store that the environment names, else on files."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from benchmarks.tasks.base import STORE
from eventq import App, StorageError
from eventq.config import is_file_url

if TYPE_CHECKING:
    from pathlib import Path

LOOK = 0.1


def open_app(folder: Path, patience: float = 0.0) -> App:
    """Open it. A server that is away is waited for, as who starts a process again would."""
    url = os.environ.get(STORE) or str(folder / "store")
    end = time.monotonic() + patience
    while True:
        try:
            return App(url, sync=False if is_file_url(url) else None)
        except StorageError:
            if time.monotonic() > end:
                raise
            time.sleep(LOOK)
