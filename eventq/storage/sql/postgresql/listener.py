"""The connection by which a worker is known as alive, and hears.

It holds an advisory lock that nobody else ever asks for. The server frees it the moment that the connection ends, which
is the moment that the process dies, and anybody can look for it in `pg_locks`. The lock is a shared one: who comes back
need not wait until the server has noticed that the old connection is gone.
"""

from __future__ import annotations

import hashlib
import os
import random
import select
import threading
from typing import TYPE_CHECKING

import psycopg

from eventq.storage.sql.postgresql.errors import Refused
from eventq.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventq.storage.sql.database import Row
    from eventq.storage.sql.postgresql.connections import Connections, Contact

PAUSES = (0.1, 0.25)
"""Seconds between two attempts to come back, at random; the first one is at once."""
END = 5.0
"""Seconds that a thread gets to end; it may be connecting to a server that does not answer."""

INCARNATION = "SELECT extract(epoch FROM pg_postmaster_start_time())::text"
ANNOUNCE = INCARNATION + ", pg_advisory_lock_shared(%s)"
PRESENT = """
    SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND ((classid::bigint << 32) | objid::bigint) = ANY(:numbers::bigint[])"""


def number(namespace: str, kind: str, name: str) -> int:
    """The number of an advisory lock, of 64 bits with a sign: another one for each namespace, kind and name."""
    digest = hashlib.blake2b(f"eventq {kind} {namespace} {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def channel(worker: str) -> str:
    """What a worker listens on: its id is of 64 random bits, so no other one anywhere is called so."""
    return f"eventq_{worker}"


class Listener:
    """The connection of one worker and the thread that listens on it, until `stop`."""

    def __init__(
        self, connections: Connections, contact: Contact, namespace: str, worker: str, hear: Callable[[str], None]
    ) -> None:
        self._connections = connections
        self._contact = contact
        self._number = number(namespace, "worker", worker)
        self._channel = channel(worker)
        self._hear = hear
        self._stopping = False
        self._pid = os.getpid()
        self.incarnation: str = ""
        self._connection: psycopg.Connection[Row] = self._announced()
        self._wakeup = Wakeup()
        self._thread = threading.Thread(target=self._run, name=f"eventq-listen-{worker}", daemon=True)
        self._thread.start()

    @property
    def is_ours(self) -> bool:
        """False in a forked child, where the thread is not."""
        return self._pid == os.getpid()

    def stop(self) -> None:
        """Be no longer known as alive. In a forked child, only forget it."""
        self._stopping = True
        if self.is_ours:
            self._wakeup.ring()
            self._thread.join(END)
        else:
            self._wakeup.close()

    def _announced(self) -> psycopg.Connection[Row]:
        """A new connection that listens and has the lock, in this order: who is known as alive hears every word.
        Raises Refused, and psycopg's errors."""
        connection = self._connections.connect().connection
        try:
            connection.execute(f'LISTEN "{self._channel}"'.encode())
            row = connection.execute(ANNOUNCE, (self._number,)).fetchone()
            assert row is not None
            self.incarnation = row[0]
        except BaseException:
            self._connections.drop(connection)
            raise
        return connection

    def _run(self) -> None:
        with self._wakeup:
            while not self._stopping:
                try:
                    self._listen()
                except psycopg.Error as error:
                    self._connections.drop(self._connection)
                    if not self._stopping:
                        self._contact.lost(error)
                        self._come_back()
        self._connections.drop(self._connection)

    def _listen(self) -> None:
        """Hand on every word, until `stop`; raises psycopg's error once the connection is lost."""
        poll = select.poll()
        poll.register(self._connection.fileno(), select.POLLIN)
        poll.register(self._wakeup.fileno(), select.POLLIN)
        pgconn = self._connection.pgconn
        while True:
            pgconn.consume_input()  # before the first wait: a word may have come with the answer to LISTEN
            while (word := pgconn.notifies()) is not None:
                self._hear(word.extra.decode())
            if self._stopping:
                return
            poll.poll()

    def _come_back(self) -> None:
        """Connect again as soon as the server lets us, and say that words may have been missed."""
        while not self._stopping:
            try:
                self._connection = self._announced()
            except (Refused, psycopg.Error):
                self._wakeup.wait(random.uniform(*PAUSES))  # noqa: S311 - so that not all come at once
                continue
            self._contact.made()
            self._hear("")
            return
