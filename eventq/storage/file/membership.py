"""What a worker has in a store once it has joined."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from eventq.ids import Stamps
from eventq.storage.bounds import Bounds
from eventq.storage.file import disk
from eventq.storage.file.drafts import Drafts
from eventq.storage.file.edits import Editor
from eventq.storage.file.feed import Feed
from eventq.storage.file.held import Holder
from eventq.storage.file.keyed import Keyed
from eventq.storage.file.maintenance import Maintenance
from eventq.storage.file.presence import Introduction, Room
from eventq.storage.file.producer import Producer
from eventq.storage.file.waiting import waiting
from eventq.storage.file.wake import ResultBoard

if TYPE_CHECKING:
    from eventq.storage.file.storage import FileStorage


class Membership:
    """A worker's room, and everything that needs one."""

    def __init__(self, storage: FileStorage, room: Room) -> None:
        root, durable, clock, published = storage.root, storage.durable, storage.clock, storage.published
        drafts, stamps = Drafts(root, room, durable), Stamps(room.worker, clock)
        holder = Holder(root, room, drafts, stamps, durable, clock, storage.places)
        self.room: Room = room
        self.stamps: Stamps = stamps
        self.drafts: Drafts = drafts
        self.holder: Holder = holder
        reader, paths_of = storage.reader, storage.queue_paths
        bounds = Bounds(lambda queue: waiting(reader, paths_of(queue)), clock)
        self.producer: Producer = Producer(drafts, stamps, durable, clock, storage.settings, bounds, published)
        self.keyed: Keyed = Keyed(
            root, room, drafts, stamps, durable, clock, storage.reader, bounds, published, storage.displaced
        )
        self.board: ResultBoard = ResultBoard(room.wake)
        self.editor: Editor = Editor(holder, storage.reader, storage.queue_paths, storage.forget, storage.put_copy)
        self.holder.on_load = self.loaded
        self.holder.heard = self.board.ring
        self.holder.settings_of = storage.settings
        self.maintenance: Maintenance | None = None
        self.feeds: dict[str, Feed] = {}
        self._storage = weakref.ref(storage)

    def introduce(self, said: Introduction) -> None:
        """Let the room's `info.json` tell what this worker serves: written anew, and renamed over the old one."""
        draft = self.drafts.named("info", self.room.info(said))
        try:
            disk.rename(draft.path, self.room.path + "/info.json")
        except OSError:
            self.drafts.drop(draft)
            raise
        disk.close(draft.fd)

    def loaded(self, hoards: bool) -> None:
        """A file was claimed: somebody must look after it while handlers are busy."""
        if self.maintenance is None:
            storage = self._storage()
            assert storage is not None
            self.maintenance = Maintenance(storage)
        if hoards:
            self.maintenance.hoarding()
        else:
            self.maintenance.held()
