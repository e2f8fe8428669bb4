"""What an error of PostgreSQL means for a call: it may be repeated, or it is the caller's to hear, with what to do."""

from __future__ import annotations

import enum

from psycopg import Error, OperationalError

from eventq.errors import StorageError


class Verdict(enum.Enum):
    """What becomes of a call that met an error."""

    LOST = enum.auto()
    """The connection is gone, and whether the server did it is not known: repeat it on another one."""
    AWAY = enum.auto()
    """There is no connection to be had, for now: repeat it later. Nothing was done."""
    AGAIN = enum.auto()
    """Others were in the way; the server did nothing of it: repeat it at once."""
    FAILED = enum.auto()
    """It would fail again."""


ENDED = {
    "57P01",  # an administrator ended the session, or the server is shutting down
    "57P02",  # another session crashed, and the server starts over
    "57P03",  # the server is starting up, or shutting down
    "57P05",  # an idle_session_timeout
    "25P03",  # an idle_in_transaction_session_timeout
}
IN_THE_WAY = {
    "40001",  # could not serialize
    "40P01",  # deadlock
}
COMING = ("starting up", "shutting down", "recovery mode", "not yet accepting", "too many", "reserved for")
"""Words of a server that lets nobody in at this moment."""

ADVICE = {
    "53100": "make room on the server's disk",
    "53200": "the server is out of memory",
    "53300": "raise the server's max_connections, or put a pooler before it",
    "25006": "this server only reads; name the primary one, or several with target_session_attrs=read-write",
    "42501": "grant the role what it needs on the schema {namespace!r}, or let its owner run: eventq migrate URL",
    "3F000": "make the tables first: eventq migrate URL",
    "42P01": "make the tables first: eventq migrate URL",
    "57014": "a statement_timeout ended it, or somebody did; give the role a longer one",
    "55P03": "a lock_timeout ended it; give the role a longer one",
}
REFUSED = {
    "Connection refused": "is the server running, and at this port?",
    "No such file": "is the server running on this machine?",
    "failed to resolve": "check the host's name",
    "timeout": "check the address, and the firewalls between",
    "authentication failed": "check the user and the password",
    "no password supplied": "write the password into the URL, PGPASSWORD or ~/.pgpass",
    "pg_hba.conf": "the server's pg_hba.conf does not let this user in from here",
    "does not exist": "make it first (createdb, createuser), or correct the URL",
    "too many": ADVICE["53300"],
    "reserved for": ADVICE["53300"],
    "certificate": "check sslmode and sslrootcert",
    "SSL": "check sslmode",
}
"""What to do when a server, or the way to it, refuses a connection: it has no codes, only words."""


class Refused(Exception):
    """There is no connection; `error` is why."""

    def __init__(self, error: Error) -> None:
        super().__init__(str(error))
        self.error: Error = error


def verdict(error: Error) -> Verdict:
    """What an error of a statement means."""
    if error.sqlstate in IN_THE_WAY or is_stale(error):
        return Verdict.AGAIN
    if error.sqlstate is None:
        return Verdict.LOST if isinstance(error, OperationalError) else Verdict.FAILED
    return Verdict.LOST if error.sqlstate in ENDED or error.sqlstate.startswith("08") else Verdict.FAILED


def is_stale(error: Error) -> bool:
    """Whether the tables have changed since this connection prepared the statement: another connection will do."""
    return error.sqlstate == "0A000" and error.diag.source_function == "RevalidateCachedQuery"


def refusal(error: Error, *, opening: bool) -> Verdict:
    """What it means that there is no connection. Who opens a store is told at once what he can correct."""
    words = str(error)
    if any(coming in words for coming in COMING):
        return Verdict.AWAY
    return Verdict.FAILED if opening or "FATAL" in words else Verdict.AWAY


def failure(error: Error, shown: str, namespace: str) -> StorageError:
    """What the caller hears: the store, the server's own words, and what to do."""
    words = " ".join(str(error).split())
    if error.sqlstate is not None:
        advice = ADVICE.get(error.sqlstate, "").format(namespace=namespace)
    else:
        advice = next((advice for sign, advice in REFUSED.items() if sign in words), "")
    return StorageError(f"{shown}: {words}" + (f"; {advice}" if advice else ""))
