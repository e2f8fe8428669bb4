"""The file storage: a store in a directory. PROTOCOL.md specifies what is on disk.

Read in this order: `layout` (names), `line` (what stands in a file), `drafts`, `producer` (put), `feed` (claim),
`held` (settle, move), `presence` and `recovery` (death), `storage` (all of it).
"""

from eventq.storage.file.storage import FileStorage

__all__ = ["FileStorage"]
