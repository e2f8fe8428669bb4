"""Making and opening a store: its folders, and `FORMAT`, which says what it is and whether its puts are durable."""

from __future__ import annotations

import secrets

from eventq.errors import ConfigError
from eventq.storage.file import disk
from eventq.storage.file.drafts import make_ballast, make_folder
from eventq.storage.file.layout import FORMAT

FOLDERS = ("queues", "workers", "free", "corrupt", "names", "slots")
MAX_FORMAT_BYTES = 4096


def open_format(root: str, sync: bool | None) -> bool:
    """Open a store, making it if there is none; whether it is durable.

    `FORMAT` comes last and by one link: whoever sees it finds the rest, and need not sync it again.
    """
    durable = read_format(root)
    if durable is None:
        _make(root, True if sync is None else sync)
        durable = read_format(root)
        assert durable is not None
    elif disk.stat(root + "/FORMAT").st_nlink > 1:
        _remove_drafts(root)  # its maker died just after it had won
    if sync is not None and sync is not durable:
        raise ConfigError(
            f"the store at {root} was made with sync={durable}, and that is fixed: "
            f"open it without sync=, or make another store with sync={sync}"
        )
    return durable


def read_format(root: str) -> bool | None:
    """Whether the store is durable; None if there is none. Raises ConfigError for what is not ours."""
    try:
        text = disk.read_file(root + "/FORMAT", MAX_FORMAT_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise ConfigError(f"{root} is a file; name a directory for the store") from None
    first, _, rest = text.partition("\n")
    if first != FORMAT:
        raise ConfigError(
            f"the store at {root} says {first[:40]!r}; this version of eventq reads {FORMAT!r}: "
            "open it with the version that made it, and export and import its events"
        )
    return rest.strip() != "sync false"


def _make(root: str, durable: bool) -> None:
    try:
        names = disk.listdir(root)
    except FileNotFoundError:
        names = []
    except NotADirectoryError:
        raise ConfigError(f"{root} is a file; name a directory for the store") from None
    ours = {*FOLDERS, "ballast", "FORMAT", *(name for name in names if name.startswith(".FORMAT"))}
    foreign = sorted(set(names) - ours)
    if foreign:
        raise ConfigError(f"{root} is not empty ({', '.join(foreign[:5])}); name a directory of its own for the store")
    make_folder(root, durable)
    for name in FOLDERS:
        make_folder(f"{root}/{name}", durable)
    make_ballast(root + "/ballast")
    draft = f"{root}/.FORMAT.{secrets.token_hex(6)}"
    fd = disk.create(draft)
    try:
        disk.write_all(fd, f"{FORMAT}\nsync {str(durable).lower()}\n".encode())
        disk.sync(fd)
    finally:
        disk.close(fd)
    try:
        disk.link(draft, root + "/FORMAT")  # of several makers one wins, and what it decided holds
    except FileExistsError:
        pass
    except FileNotFoundError:
        if not disk.exists(root + "/FORMAT"):
            raise  # else the winner has removed our draft
    disk.sync_folder(root)
    _remove_drafts(root)


def _remove_drafts(root: str) -> None:
    """Remove the maker's draft of `FORMAT`, and those of makers that were slower or died."""
    for name in disk.listdir(root):
        if name.startswith(".FORMAT."):
            disk.unlink_if_any(f"{root}/{name}")
