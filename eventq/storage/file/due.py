"""Finding what has become due: delayed files whose time has come.

They lie in buckets of 69 seconds, and both buckets and names sort by time: only buckets that are due are opened, and
the first name that is not due yet says when to look again.
"""

from __future__ import annotations

from collections.abc import Container

from eventq.storage.file import disk
from eventq.storage.file.layout import BUCKET, DELAYED_FILE, QueuePaths, bucket_of
from eventq.storage.file.listing import Listing


def find_due(paths: QueuePaths, now: str, passed_over: Container[str]) -> tuple[list[Listing], float | None]:
    """The due files at an instant (the digits of a name), by folder and priority, the highest priority first; and when
    the earliest of the others becomes due, or its bucket, if there are any. Removes buckets that are past and empty."""
    next_due: float | None = None
    due: dict[tuple[int, str], list[str]] = {}
    for bucket in disk.list_if_any(paths.delayed):
        if not BUCKET.match(bucket):
            continue
        if bucket > bucket_of(now):
            next_due = int(bucket + "0" * (16 - len(bucket)), 16) / 1e9
            break
        folder = f"{paths.delayed}{bucket}/"
        names = disk.list_if_any(folder)
        if not names and bucket < bucket_of(now):
            _remove_bucket(folder)
        for name in names:
            match = DELAYED_FILE.match(name)
            if match is None or name in passed_over:
                continue
            if match[1] > now:
                next_due = int(match[1], 16) / 1e9
                break
            due.setdefault((int(match[2]), folder), []).append(name)
        if next_due is not None:
            break
    return [
        Listing(priority, folder, names[::-1]) for (priority, folder), names in sorted(due.items(), reverse=True)
    ], next_due


def _remove_bucket(folder: str) -> None:
    try:
        disk.rmdir(folder)
    except OSError:
        return  # a retry came in meanwhile
