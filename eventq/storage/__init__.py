"""Opens a storage by its URL. Each driver is imported only when its URL is used."""

from __future__ import annotations

import importlib
from urllib.parse import urlsplit

from eventq.clock import SYSTEM, Clock
from eventq.errors import ConfigError, MissingExtra
from eventq.storage.base import Storage

__all__ = ["Storage", "open_storage"]

DEFAULT_URL = ".eventq"
SCHEMES = ("file://", "memory://", "sqlite://", "postgresql://", "redis://", "rediss://")
DURABILITY = {
    "sqlite": "synchronous= in its URL",
    "postgresql": "synchronous_commit of the server, the role or the database",
    "postgres": "synchronous_commit of the server, the role or the database",
    "redis": "appendfsync of the server",
    "rediss": "appendfsync of the server",
}
"""Where each kind of store, but files, is told whether what was put survives a power cut."""


def open_storage(url: str, *, sync: bool | None = None, clock: Clock = SYSTEM) -> Storage:
    """Open the store that a URL names, making it if need be.

    `memory://` is a new, private store; `memory://name` is shared by that name within this process.
    `file:///srv/q`, or a plain path, is a directory. `sqlite:///path` is a database file, `postgresql://...` and
    `redis://...` are servers: `eventq.storage.sql` and `eventq.storage.redis` tell what their URLs may say. `sync` is
    fixed when a file store is made (True unless said); another value later, or for another kind of store, is a
    ConfigError. A driver that is not installed is a MissingExtra.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "file":
        from eventq.storage.file import FileStorage

        return FileStorage(file_path(url), sync=sync, clock=clock)
    if sync is not None:
        place = DURABILITY.get(scheme, "nothing")
        raise ConfigError(f"sync= is a setting of file stores; the durability of {scheme}:// is decided by {place}")
    if scheme == "memory":
        from eventq.storage.memory import MemoryStorage

        return MemoryStorage(rest or None, clock=clock)
    if scheme == "sqlite":
        from eventq.storage.sql.sqlite import SQLiteStorage

        return SQLiteStorage(url, clock=clock)
    if scheme in ("postgresql", "postgres"):
        load_driver("psycopg", "sql", f"{scheme}://")
        from eventq.storage.sql.postgresql import PostgreSQLStorage

        return PostgreSQLStorage(url, clock=clock)
    if scheme in ("redis", "rediss"):
        load_driver("redis", "redis", f"{scheme}://")
        from eventq.storage.redis import RedisStorage

        return RedisStorage(url, clock=clock)
    raise ConfigError(f"no storage for {scheme}://; there are {', '.join(SCHEMES)}, and plain paths")


def file_path(url: str) -> str:
    """The directory that a file store's URL, or a plain path, names. Raises ConfigError for another URL."""
    if not url:
        raise ConfigError("an empty URL; write a path such as './.eventq', or 'memory://'")
    if "://" not in url:
        return url
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
        raise ConfigError(f"{url!r} is not a local path; write file:///absolute/path or a plain path")
    return parts.path


def load_driver(module: str, extra: str, feature: str) -> object:
    """Import what an optional driver needs, or say in one line how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(feature, extra) from error
