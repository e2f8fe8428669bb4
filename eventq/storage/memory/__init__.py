"""The store of unit tests and of single processes: everything in memory, gone with the process.

It is also the reference: property tests hold every other storage against it, so it is written to be read.

    storage.py   MemoryStorage: the seam, one worker's view
    store.py     what the workers of a store share; the transitions of an event
    queue.py     the places of one queue, in order; keys and retention
"""

from eventq.storage.memory.storage import MemoryStorage

__all__ = ["MemoryStorage"]
