"""A file system that forgets: what a power cut may leave of a store, from the calls that were made.

Every call is recorded with the inodes that it touched. After a cut at any point the disk holds what was synced: `sync`
makes a file's content durable, not its name; `sync_folder` the names in one folder, not those above it. Of the rest,
changes of names (a rename is one change) are there up to some point, and each write whole, in its first half, as
zeros, or not at all. Two kinds of file systems are played:

- with one journal, as ext4 and xfs: syncing a folder commits all changes of names before it, and a write may come to
  the disk before changes of names that were made earlier;
- with a log per file, as btrfs: what is synced overtakes all else, and what is not stays in order with its writes.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventq.storage.file import disk

ROOT = 1


class Change(msgspec.Struct):
    """Something that was done and, until it is synced, may be lost."""

    at: int
    """Its place among all calls."""
    kind: str
    """`name` (one or two entries of folders) or `data` (a write or a cut of a file)."""
    inode: int
    folders: tuple[int, ...] = ()
    adds: tuple[tuple[int, str, int], ...] = ()
    removes: tuple[tuple[int, str, int], ...] = ()
    data: bytes = b""
    offset: int = 0
    cut: int | None = None
    synced: float = float("inf")
    """The place of the call that made it durable."""


class Recorder:
    """Stands in for the disk's functions and writes down what they change below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.changes: list[Change] = []
        self.calls = 0
        self.barriers: list[int] = []
        """The calls that committed the journal."""
        self.kinds: dict[int, str] = {ROOT: "folder"}
        self._names: dict[str, int] = {self.root: ROOT}
        self._files: dict[int, int] = {}
        self._next = itertools.count(2)
        self._real: dict[str, Callable[..., Any]] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in (
            "rename", "link", "unlink", "rmdir", "mkdir", "make_fifo", "create", "open_or_create", "open_file",
            "open_read", "close", "pwrite", "truncate", "sync", "sync_folder", "remove_tree",
        ):  # fmt: skip
            self._real[name] = getattr(disk, name)
            monkeypatch.setattr(disk, name, self._stand_in(name))

    def _stand_in(self, name: str) -> Callable[..., Any]:
        real, note = self._real[name], getattr(self, "_" + name)

        def call(*args: Any) -> Any:
            result = real(*args)
            note(result, *args)
            return result

        return call

    # ------------------------------------------------------------------ names

    def _path(self, path: str) -> str:
        return path.rstrip("/")

    def _place(self, path: str) -> tuple[int, str]:
        folder, _, name = self._path(path).rpartition("/")
        return self._names[folder], name

    def _name(self, inode: int, adds: list[str], removes: list[str]) -> None:
        self.calls += 1
        added = tuple((*self._place(path), inode) for path in adds)
        gone = tuple((*self._place(path), inode) for path in removes)
        folders = tuple({entry[0] for entry in (*added, *gone)})
        self.changes.append(Change(self.calls, "name", inode, folders, added, gone))

    def _make(self, path: str, kind: str) -> int:
        inode = next(self._next)
        self.kinds[inode] = kind
        self._name(inode, [path], [])
        self._names[self._path(path)] = inode
        return inode

    def _mkdir(self, _: None, path: str) -> None:
        self._make(path, "folder")

    def _make_fifo(self, _: None, path: str) -> None:
        if path not in self._names:
            self._make(path, "fifo")

    def _create(self, fd: int, path: str) -> None:
        self._files[fd] = self._make(path, "file")

    def _open_or_create(self, fd: int, path: str) -> None:
        inode = self._names.get(self._path(path))
        self._files[fd] = self._make(path, "file") if inode is None else inode

    def _open_file(self, fd: int, path: str) -> None:
        self._files[fd] = self._names[self._path(path)]

    _open_read = _open_file

    def _close(self, _: None, fd: int) -> None:
        self._files.pop(fd, None)

    def _rename(self, _: None, source: str, target: str) -> None:
        source, target = self._path(source), self._path(target)
        inode = self._names[source]
        self._name(inode, [target], [source])
        for path in [path for path in self._names if path == source or path.startswith(source + "/")]:
            self._names[target + path[len(source) :]] = self._names.pop(path)

    def _link(self, _: None, source: str, target: str) -> None:
        inode = self._names[self._path(source)]
        self._name(inode, [target], [])
        self._names[self._path(target)] = inode

    def _unlink(self, _: None, path: str) -> None:
        self._name(self._names[self._path(path)], [], [path])
        del self._names[self._path(path)]

    _rmdir = _unlink

    def _remove_tree(self, _: None, path: str) -> None:
        self._unlink(None, path)
        for name in [name for name in self._names if name.startswith(self._path(path) + "/")]:
            del self._names[name]

    # ------------------------------------------------------------------ data

    def _pwrite(self, written: int, fd: int, data: bytes, offset: int) -> None:
        self.calls += 1
        change = Change(self.calls, "data", self._files[fd], data=bytes(data[:written]), offset=offset)
        self.changes.append(change)

    def _truncate(self, _: None, fd: int, size: int) -> None:
        self.calls += 1
        self.changes.append(Change(self.calls, "data", self._files[fd], cut=size))

    def _sync(self, _: None, fd: int) -> None:
        self.calls += 1
        self._settle(lambda change: change.kind == "data" and change.inode == self._files[fd])

    def _sync_folder(self, _: None, path: str) -> None:
        self.calls += 1
        folder = self._names[self._path(path)]
        if self._settle(lambda change: folder in change.folders):
            self.barriers.append(self.calls)

    def _settle(self, which: Callable[[Change], bool]) -> bool:
        """Whether there was anything to make durable."""
        found = False
        for change in self.changes:
            if change.synced == float("inf") and which(change):
                change.synced = self.calls
                found = True
        return found


# ---------------------------------------------------------------------------- what may be left


def crash_states(recorder: Recorder, since: int, limit: int, seed: int) -> Iterator[tuple[int, list[Change]]]:
    """After each call from `since` on: what may be left, at most about `limit` times `limit` choices of it by kind of
    file system."""
    chance = random.Random(seed)
    for at in range(since, recorder.calls + 1):
        made = [change for change in recorder.changes if change.at <= at]
        committed = max((barrier for barrier in recorder.barriers if barrier <= at), default=0)
        for journals in (True, False):
            forced = {change.at for change in made if change.at <= committed} if journals else _forced(made, at)
            names = [change.at for change in made if change.kind == "name" and change.at not in forced]
            for kept in _some(range(len(names) + 1), limit, chance):
                lost = set(names[kept:])
                data = [change for change in made if change.kind == "data" and change.synced > at]
                if not journals and lost:
                    lost |= {change.at for change in data if change.at > names[kept]}
                    data = [change for change in data if change.at not in lost]
                for fates in _fates(data, limit, chance):
                    left = (fates.get(change.at, change) for change in made if change.at not in lost)
                    yield at, [change for change in left if change is not None]


def _forced(made: list[Change], at: int) -> set[int]:
    """The changes of names that are there whatever else is: those synced, and earlier ones of the same files."""
    forced: set[int] = set()
    inodes: set[int] = set()
    for change in reversed(made):
        if change.kind == "name" and (change.synced <= at or change.inode in inodes):
            forced.add(change.at)
            inodes.add(change.inode)
    return forced


def _some(among: range, limit: int, chance: random.Random) -> list[int]:
    """The ends of a range, and of what is between them at most a number."""
    between = list(among)[1:-1]
    return sorted({among[0], among[-1], *chance.sample(between, min(limit, len(between)))})


def _fates(data: list[Change], limit: int, chance: random.Random) -> list[dict[int, Change | None]]:
    """What becomes of writes: all there, none, each alone torn or lost, or any of it."""
    fates: list[dict[int, Change | None]] = [{}]
    if data:
        options = {change.at: [change, None, *_torn(change)] for change in data}
        fates.append({change.at: None for change in data})
        alone = [{at: fate} for at, some in options.items() for fate in some[1:]]
        fates += chance.sample(alone, min(limit, len(alone)))
        fates += [{at: chance.choice(some) for at, some in options.items()} for _ in range(limit // 2)]
    return fates


def _torn(change: Change) -> list[Change]:
    """A write of which half came to the disk, or only its length."""
    if change.kind != "data" or len(change.data) < 2:
        return []
    half = change.data[: len(change.data) // 2]
    return [
        msgspec.structs.replace(change, data=half),
        msgspec.structs.replace(change, data=bytes(len(change.data))),
        msgspec.structs.replace(change, data=half + bytes(len(change.data) - len(half))),
    ]


def rebuild(recorder: Recorder, changes: list[Change], root: Path) -> None:
    """Make the folder that such changes leave."""
    entries: dict[int, dict[str, int]] = {}
    contents: dict[int, bytearray] = {}
    for change in changes:
        if not change.adds and any(entries.get(inode) for _, _, inode in change.removes):
            continue  # no file system loses what emptied a folder and keeps the folder's removal
        for folder, name, inode in change.removes:
            if entries.get(folder, {}).get(name) == inode:
                del entries[folder][name]
        for folder, name, inode in change.adds:
            entries.setdefault(folder, {})[name] = inode
        if change.kind == "data":
            content = contents.setdefault(change.inode, bytearray())
            if change.cut is not None:
                del content[change.cut :]
                content.extend(bytes(change.cut - len(content)))
            else:
                content.extend(bytes(max(0, change.offset - len(content))))
                content[change.offset : change.offset + len(change.data)] = change.data
    _build(recorder.kinds, entries, contents, ROOT, str(root), {})


def _build(
    kinds: dict[int, str], entries: dict[int, dict[str, int]], contents: dict[int, bytearray], folder: int, path: str,
    made: dict[int, str],
) -> None:  # fmt: skip
    os.mkdir(path, 0o700)
    for name, inode in entries.get(folder, {}).items():
        place = f"{path}/{name}"
        if kinds[inode] == "folder":
            if inode not in made:  # a moved folder whose old name is not gone is only in one place
                made[inode] = place
                _build(kinds, entries, contents, inode, place, made)
        elif kinds[inode] == "fifo":
            os.mkfifo(place, 0o600)
        elif inode in made:
            os.link(made[inode], place)
        else:
            made[inode] = place
            fd = os.open(place, os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(fd, contents.get(inode, b""))
            os.close(fd)
