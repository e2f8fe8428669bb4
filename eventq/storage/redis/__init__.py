"""The store in a Redis or Valkey server, 6.2 or later: shared by machines, as durable as the server is told to be.

    redis://[user:password@]host[:port]/database?namespace=shop&patience=10

`namespace` (letters, digits, `-`, `_`, `.`; `default` unless said) keeps stores of one database apart. `patience` is
for how many seconds a lost connection is tried again before a call fails (10). `rediss://` is the same over TLS, with
redis-py's options `ssl_ca_certs`, `ssl_ca_path`, `ssl_cert_reqs`, `ssl_certfile`, `ssl_keyfile`, `ssl_check_hostname`
and `ssl_ciphers`. What was put survives a crash of the server as its `appendfsync` says; with `always`, a power cut.

    url.py          what a URL says, checked
    storage.py      RedisStorage: the seam, as calls of scripts
    lua/*.lua       the scripts: each change happens in one of them, wholly or not at all
    scripts.py      how they come together, and the constants they share with Python
    server.py       the connections; what is asked again when one was lost, and how it then happens but once
    connection.py   one connection: redis-py's own
    failures.py     what goes wrong, in words that say what to do
    listener.py     the thread that hears other workers, and says that this one lives
    watching.py     watches: who waits here for what, and whom a word wakes
    looks.py        `recover`: the dead, leases, requests; what this worker holds as it knows itself
    packing.py      events as fields of hashes, and back
    LAYOUT.md       the keys in the server, for whoever looks with redis-cli
"""

from eventq.storage.redis.storage import RedisStorage

__all__ = ["RedisStorage"]
