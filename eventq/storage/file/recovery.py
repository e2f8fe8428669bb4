"""Burying the dead: whoever can take the lock of a room brings back what was in it.

First the drafts: one that was owed (its `moved` record is written, its key's marker names it, the foreign file it
copies is gone) gets its name, any other is dropped. Then every claim file is renamed as it is back to `ready/`, with
a `+`, records and all: no reading, no space, its place in the order kept; the next claimer counts a start without an
end as a crash. Any error leaves the room for the next look.
"""

from __future__ import annotations

import logging

from eventq.ids import worker_of
from eventq.storage.file import disk, line
from eventq.storage.file.corrupt import set_aside
from eventq.storage.file.drafts import rename_into, sync_name
from eventq.storage.file.keys import read_marker
from eventq.storage.file.layout import (
    CLAIM_FILE,
    EVENT_FILE,
    KEYED_DRAFT,
    QueuePaths,
    came_back,
    decode_queue,
)
from eventq.storage.file.presence import remove_room, take_dead_room
from eventq.storage.file.wake import wake

log: logging.Logger = logging.getLogger("eventq.storage")

MAX_FILE_BYTES = 192 << 20


def bury_dead(root: str, own: str, durable: bool) -> int:
    """Look at every other room; the number of claim files and drafts that came back from dead ones."""
    workers = root + "/workers/"
    count = 0
    for name in disk.listdir(workers):
        if name.lstrip(".") == own:
            continue
        room = workers + name
        fd = take_dead_room(room)
        if fd is None:
            continue
        try:
            count += _bury(root, room, durable)
        except OSError as error:
            log.warning("the room of dead worker %s stays for the next look: %s", name, error)
        finally:
            disk.close(fd)
    return count


def _bury(root: str, room: str, durable: bool) -> int:
    drafts = disk.list_if_any(room + "/drafts")
    claims = disk.list_if_any(room + "/claims")
    if drafts:
        moves = _moves(room, claims)
        for name in drafts:
            _judge(root, room, name, set(claims), moves, durable)
    queues = set()
    for name in claims:
        paths = _bring_back(root, room, name, durable)
        if paths is not None:
            queues.add(paths.wake)
    for name in disk.list_if_any(room + "/requests"):
        disk.unlink_if_any(f"{room}/requests/{name}")
    remove_room(room)
    if claims:
        log.info("worker %s died; %d claimed files came back", room.rpartition("/")[2], len(claims))
    for fifo in queues:
        wake(fifo)
    return len(claims) + len(drafts)


def _bring_back(root: str, room: str, name: str, durable: bool) -> QueuePaths | None:
    match = CLAIM_FILE.match(name)
    path = f"{room}/claims/{name}"
    try:
        if match is None:
            raise ValueError("no claim file has such a name")
        paths = QueuePaths(root, decode_queue(match[1]))
    except ValueError:
        set_aside(root, path, "is not a claim file")
        return None
    back = came_back(match[3]) if EVENT_FILE.match(match[3]) else match[3]
    folder = paths.ready_at(int(match[2]))
    if disk.exists(folder + back):
        return _keep_apart(path, paths, match[3])
    rename_into(path, folder, back, durable)
    return paths


def sweep_dropped(root: str, own: str) -> None:
    """Remove what is left of queues whose dropper died, or failed: hidden as `.<stem>`, and read by nobody."""
    for name in disk.list_if_any(root + "/queues"):
        dropper = worker_of(name[1:])
        if name.startswith(".") and (dropper == own or not disk.exists(f"{root}/workers/{dropper}")):
            try:
                disk.remove_tree(f"{root}/queues/{name}")
            except OSError as error:
                log.warning("what is left of a dropped queue stays for the next look: %s", error)


def _keep_apart(path: str, paths: QueuePaths, name: str) -> QueuePaths:
    """A file of this name is there already: renaming would destroy it. What is finished goes; what is not waits in
    its room until the other one is gone."""
    folded = line.fold(disk.read_file(path, MAX_FILE_BYTES), name[:38])
    if not folded.open_indexes() and not folded.has_values():
        disk.unlink(path)
    return paths


def _moves(room: str, claims: list[str]) -> dict[str, str]:
    """Draft name to target, of every `moved` record in a dead worker's claim files."""
    moves = {}
    for name in claims:
        match = CLAIM_FILE.match(name)
        if match is None or not EVENT_FILE.match(match[3]):
            continue
        folded = line.fold(disk.read_file(f"{room}/claims/{name}", MAX_FILE_BYTES), match[3][:38])
        for move in folded.moves:
            moves[draft_name(move.to)] = move.to
    return moves


def draft_name(to: str) -> str:
    """The draft of a move is named as its target file."""
    return to.rpartition("/")[2]


def _judge(root: str, room: str, name: str, claims: set[str], moves: dict[str, str], durable: bool) -> None:
    """Publish a dead worker's draft, or drop it."""
    path = f"{room}/drafts/{name}"
    target = None
    if name in moves:
        target = _moved(root, moves[name])
    elif "=" in name:
        target = _adopted(root, name, claims)
    elif (match := KEYED_DRAFT.match(name)) is not None:
        target = keyed_target(root, path, match.groups())
    if target is None:
        disk.unlink(path)
        return
    folder, _, filename = target.rpartition("/")
    rename_into(path, folder + "/", filename, durable)
    if durable:
        fd = disk.open_read(target)
        try:
            sync_name(folder + "/", fd)
        finally:
            disk.close(fd)


def _moved(root: str, to: str) -> str | None:
    """Where a move leads; None if not into a queue, whoever wrote such a record."""
    parts = to.split("/")
    if len(parts) != 5 or parts[0] != "queues" or any(not part or part.startswith(".") for part in parts):
        log.error("a record moves an event to %r, which is no place for one", to)
        return None
    return f"{root}/{to}"


def _adopted(root: str, name: str, claims: set[str]) -> str | None:
    stem, _, claim = name.partition("=")
    match = CLAIM_FILE.match(claim)
    if claim in claims or match is None or not EVENT_FILE.match(stem):
        return None
    return f"{QueuePaths(root, decode_queue(match[1])).ready_at(int(match[2]))}{stem}"


def keyed_target(root: str, path: str, parts: tuple[str, ...]) -> str | None:
    """Where a keyed draft goes, if its key's marker names it."""
    queue, priority, due, stem = parts
    paths = QueuePaths(root, decode_queue(queue))
    folded = line.fold(disk.read_file(path, MAX_FILE_BYTES), stem)
    if 0 not in folded.lines:
        return None
    key = folded.event(0).key
    marker = read_marker(paths, key) if key is not None else None
    if marker is None or marker.id != f"{stem}.00000":
        return None
    if int(due, 16) == 0:
        return f"{paths.ready_at(int(priority))}{stem}"
    folder, filename = paths.delayed_name(due, int(priority), stem)
    return folder + filename
