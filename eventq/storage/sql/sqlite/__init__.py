"""A store in a SQLite database, by the standard library: one file, which may be the application's own.

storage.py      SQLiteStorage: the hot paths as single statements
url.py          what a URL may say
database.py     transactions: of threads that write at the same time, one for all of them
connections.py  connections, and waiting for who writes
presence.py     a FIFO for each worker: who is alive, and a word to who waits
within.py       puts in a transaction of the caller's
errors.py       what SQLite says, and what to do about it
"""

from eventq.storage.sql.sqlite.storage import SQLiteStorage

__all__ = ["SQLiteStorage"]
