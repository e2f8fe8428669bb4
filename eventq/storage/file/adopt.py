"""Files that somebody else wrote into `ready/`: bare JSON, one payload per line (or one document), published by
`mv` from a dot name in the same folder.

They are adopted when they are claimed: a copy in our own form is drafted under `<new name>=<claim name>`, the foreign
file is unlinked, the draft renamed. Recovery finds the foreign file (then it drops the draft) or not (then it
publishes it). Nothing is unlinked before every byte of it is either adopted or set aside.
"""

from __future__ import annotations

import logging
import secrets
import stat as stat_bits

import msgspec

from eventq.model import PutOptions
from eventq.storage.base import MAX_PUT_BYTES
from eventq.storage.file import disk, line
from eventq.storage.file.corrupt import set_aside, set_lines_aside
from eventq.storage.file.held import Holder
from eventq.storage.file.layout import QueuePaths, digest

log: logging.Logger = logging.getLogger("eventq.storage")

MAX_FOREIGN_NAME = 80


class Adoption(msgspec.Struct, eq=False):
    """A foreign file on its way to become ours. After an error it goes on where it stopped."""

    path: str
    priority: int
    draft: str = ""
    """Our copy, once it is written."""
    stem: str = ""


def claim_foreign(holder: Holder, paths: QueuePaths, priority: int, folder: str, filename: str) -> Adoption | None:
    """Claim a foreign file, as if it were ours; None if another worker was faster."""
    foreign = filename
    if len(foreign.encode("utf-8", "surrogateescape")) > MAX_FOREIGN_NAME or not foreign.isprintable():
        foreign = digest(filename)[:16]
    # the token keeps it apart from another file of that name, should this one have to wait in our room
    path = holder.room.claims + paths.claim_name(priority, f"{foreign}.{secrets.token_hex(4)}")
    try:
        disk.rename(folder + filename, path)
    except FileNotFoundError:
        return None
    return Adoption(path, priority)


def adopt(holder: Holder, paths: QueuePaths, adoption: Adoption) -> str | None:
    """Copy a claimed foreign file: the path of the claim file that it became; None if nothing was in it.

    Raises OSError; then it is to be called again.
    """
    if not adoption.draft and not _copy(holder, adoption):
        return None
    if holder.durable:
        disk.sync_folder(holder.room.drafts)
    disk.unlink_if_any(adoption.path)  # after an error it may be gone; that it is not seen proves nothing
    path = holder.room.claims + paths.claim_name(adoption.priority, adoption.stem)
    disk.rename(adoption.draft, path)
    return path


def _copy(holder: Holder, adoption: Adoption) -> bool:
    path, name = adoption.path, adoption.path.rpartition("/")[2]
    status = disk.stat(path)
    if not stat_bits.S_ISREG(status.st_mode) or status.st_size > MAX_PUT_BYTES or status.st_size == 0:
        set_aside(holder.root, path, "is empty, too large, or not a regular file")
        return False
    payloads, bad = _payloads(disk.read_file(path, MAX_PUT_BYTES))
    if bad:
        set_lines_aside(holder.root, name, bad)
    if not payloads:
        disk.unlink(path)
        return False
    now = int(holder.clock.now() * 1e9)
    stem = holder.stamps.at(min(status.st_mtime_ns, now) if status.st_mtime_ns > 0 else now)
    options = line.event_options(PutOptions(priority=adoption.priority))
    draft = holder.drafts.named(f"{stem}={name}", line.event_lines(stem, payloads, "json", options))
    disk.close(draft.fd)
    adoption.draft, adoption.stem = draft.path, stem
    log.info("adopted %s: %d events as %s", name, len(payloads), stem)
    return True


def _payloads(content: bytes) -> tuple[list[bytes], list[bytes]]:
    """The payloads of a foreign file, and the lines that are none."""
    if (whole := _compact(content)) is not None:
        return [whole], []
    payloads, bad = [], []
    for raw in content.split(b"\n"):
        if not raw.strip():
            continue
        payload = _compact(raw)
        if payload is None:
            bad.append(raw)
        else:
            payloads.append(payload)
    return payloads, bad


def _compact(raw: bytes) -> bytes | None:
    """One JSON document on one line, its numbers as they were written; None if it is none."""
    try:
        msgspec.json.decode(raw)
        return msgspec.json.format(raw, indent=-1)
    except (msgspec.MsgspecError, RecursionError):
        return None
