"""A store in PostgreSQL, by psycopg 3.

storage.py      PostgreSQLStorage: the hot paths as single statements
url.py          what a URL may say
database.py     transactions, repeated on a new connection where that was lost
connections.py  a few connections, shared by all threads
listener.py     the connection by which a worker is known as alive, and told of what it waits for
within.py       puts in a transaction of the caller's
errors.py       what the server says, what is repeated, and what to do about the rest
"""

from eventq.storage.sql.postgresql.storage import PostgreSQLStorage

__all__ = ["PostgreSQLStorage"]
