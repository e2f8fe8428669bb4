"""Setting aside what cannot be read: it goes to `corrupt/` and is named in the log; it never stops anything else."""

from __future__ import annotations

import logging
import secrets
from binascii import crc32

from eventq.storage.file import disk

log: logging.Logger = logging.getLogger("eventq.storage")


def set_aside(root: str, path: str, why: str) -> None:
    """Move a file to `corrupt/`."""
    target = f"{root}/corrupt/{path.rpartition('/')[2][-180:]}.{secrets.token_hex(4)}"
    try:
        disk.rename(path, target)
    except FileNotFoundError:
        return
    log.error("%s %s; set aside as %s", path, why, target)


def set_lines_aside(root: str, name: str, lines: list[bytes]) -> None:
    """Copy unreadable lines of a file to `corrupt/`, once, however often the file is read."""
    data = b"\n".join(lines) + b"\n"
    target = f"{root}/corrupt/{name[-180:].rstrip('+')}.{crc32(data):08x}"
    try:
        fd = disk.create(target)
    except FileExistsError:
        return
    except OSError as error:
        reason = f"{error}: {data[:2000]!r}"
        log.error("%d unreadable lines in %s, and no way to set them aside: %s", len(lines), name, reason)
        return
    try:
        disk.write_all(fd, data)
        log.error("%d unreadable lines in %s; set aside as %s", len(lines), name, target)
    except OSError as error:
        log.error("%d unreadable lines in %s, only partly set aside as %s: %s", len(lines), name, target, error)
    finally:
        disk.close(fd)
