"""What goes wrong with a server, in words that say what to do."""

from __future__ import annotations

import re

from redis import exceptions
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError

from eventq.errors import StorageError

LOST = (exceptions.ConnectionError, exceptions.TimeoutError)
"""What redis-py raises when a connection cannot be made or is lost; some of it is worth no second try."""

ADVICE = {
    "OOM": "it has no memory left (maxmemory): raise that, or drop queues; nothing was changed",
    "READONLY": "it is a replica, which takes no changes: name the primary in the URL",
    "MISCONF": "it cannot save to its disk, and takes no changes until it can: see its log",
    "NOPERM": "its user may not do this: eventq needs the key pattern ~{eventq:<namespace>}:*, the channels "
    "&{eventq:<namespace>}:* and the commands +@all -@dangerous +info +client|kill",
    "MOVED": "it is part of a cluster, and another node has this namespace: name that node in the URL",
    "ASK": "it is part of a cluster that moves this namespace to another node just now",
    "CLUSTERDOWN": "its cluster is down",
    "MASTERDOWN": "it is a replica that has lost its primary",
    "NOREPLICAS": "it has fewer replicas than it wants for a change (min-replicas-to-write)",
    "DB index": "it has no such database: the number behind the host is too high",
    "unknown command": "it lacks a command: eventq needs Redis 6.2 or later, with scripts allowed",
    "max number of clients": "it has as many clients as it takes (maxclients)",
}

CODES = {
    "OutOfMemoryError": "OOM", "ReadOnlyError": "READONLY", "NoPermissionError": "NOPERM", "MovedError": "MOVED",
    "AskError": "ASK", "ClusterDownError": "CLUSTERDOWN", "MasterDownError": "MASTERDOWN",
}  # fmt: skip
"""The words that older versions of redis-py tell by the class alone."""


def is_worth_waiting(error: RedisError) -> bool:
    """Whether the server may answer soon: a connection was lost, or it is starting, or one script takes long."""
    if isinstance(error, AuthenticationError | AuthorizationError):
        return False
    return isinstance(error, LOST) or (isinstance(error, ResponseError) and _says(error).startswith("BUSY "))


def failure(shown: str, error: RedisError, user: str | None = None, doing: str = "") -> StorageError:
    """The error as ours: which server, what it said, and what to do."""
    said = _says(error)
    if isinstance(error, AuthenticationError | AuthorizationError):
        who = f"user {user!r}" if user else "the default user"
        return StorageError(f"{shown} does not let {who} in ({said}): check the user and the password of the URL")
    advice = next((advice for word, advice in ADVICE.items() if re.search(rf"\b{word}\b", said)), "")
    what = f"the store at {shown} failed{doing and f' to {doing}'}"
    return StorageError(f"{what}: {advice} ({said})" if advice else f"{what}: {said}")


def unreachable(shown: str, error: RedisError) -> str:
    """Why there is no connection."""
    return f"no Redis answers at {shown}: start it, or check host, port and TLS ({_says(error)})"


def _says(error: RedisError) -> str:
    """What the server said, with the word before it that redis-py takes off."""
    code = getattr(error, "status_code", None) or CODES.get(type(error).__name__)
    return f"{code} {error}" if code else str(error)
