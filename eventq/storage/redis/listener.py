"""Being here: one thread per storage object hears what other workers say, and says that this one lives.

What it listens on is also what shows its death: the server knows at once that the connection is gone.
"""

from __future__ import annotations

import logging
import select
import threading
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from eventq.clock import SYSTEM
from eventq.errors import StorageError
from eventq.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventq.storage.redis.connection import Argument, Link
    from eventq.storage.redis.server import Server

log: logging.Logger = logging.getLogger("eventq.storage")

BEAT = 3.0
"""Seconds between two signs of life."""
RECONNECT = 0.1
LAST_RECONNECT = 0.25


class Listener:
    """Joins the store when it is made, and stays until `close`.

    `greeting` gives the arguments by which the worker joins, each time it does; `hear` is called in the thread with
    each word, and with `""` after a time in which words may have been missed.
    """

    def __init__(
        self, server: Server, worker: str, greeting: Callable[[str], list[Argument]], hear: Callable[[str], None]
    ) -> None:
        self._server = server
        self._worker = worker
        self._greeting = greeting
        self._hear = hear
        self._wakeup = Wakeup()
        self._closed = False
        self._joining = threading.Lock()
        self._link: Link | None = None
        try:
            self._link = server.patiently("join", self._listen)
            self._join(self._link)
        except BaseException:
            if self._link is not None:
                server.drop(self._link)
            self._wakeup.close()
            raise
        self._thread = threading.Thread(target=self._run, name="eventq-redis", daemon=True)
        self._thread.start()

    def join_again(self) -> None:
        """The server does not know this worker any more: it was taken for dead, or everything there is gone."""
        with self._joining:
            link = self._link
            if link is not None:
                self._join(link)
        self._hear("")

    def close(self) -> None:
        """Stop listening; harmless when repeated, and from its own thread."""
        self._closed = True
        self._wakeup.ring()
        link = self._link
        if link is not None:
            link.cut()
        if threading.current_thread() is not self._thread:
            self._thread.join(10.0)

    # ------------------------------------------------------------------ the thread

    def _listen(self) -> Link:
        """A connection that hears this worker's words and those for everybody."""
        link = self._server.open_link()
        prefix = self._server.address.prefix
        try:
            link.subscribe(f"{prefix}worker:{self._worker}", f"{prefix}everybody")
        except BaseException:
            self._server.drop(link)
            raise
        return link

    def _join(self, link: Link) -> None:
        """Be known as a worker of this run of the server: only once it listens, or it would be taken for dead."""
        self._server.store = self._server.call("join", *self._greeting(link.run))

    def _run(self) -> None:
        beaten = SYSTEM.monotonic()
        while not self._closed:
            link = self._link
            try:
                if link is None:
                    self._come_back()
                    beaten = SYSTEM.monotonic()
                    continue
                self._wait(link, beaten + BEAT - SYSTEM.monotonic())
                for word in link.heard():
                    self._hear(word)
                if SYSTEM.monotonic() >= beaten + BEAT:
                    beaten = SYSTEM.monotonic()
                    self._beat()
            except (RedisError, OSError, StorageError) as error:
                if not self._closed:
                    self._lose(error)
        if self._link is not None:
            self._server.drop(self._link)
        self._wakeup.close()

    def _wait(self, link: Link, seconds: float) -> None:
        """Until something can be heard, it is time for a sign of life, or this is closed."""
        poller = select.poll()
        poller.register(link.fileno(), select.POLLIN)
        poller.register(self._wakeup.fileno(), select.POLLIN)
        poller.poll(max(0.0, seconds) * 1000)

    def _beat(self) -> None:
        if not self._server.call("beat", self._worker):
            self.join_again()

    def _lose(self, error: Exception) -> None:
        """The connection is gone: begin anew, soon, so that this worker is not taken for dead."""
        log.debug("worker %s hears nothing: %s", self._worker, error)
        link, self._link = self._link, None
        if link is not None:
            self._server.drop(link)

    def _come_back(self) -> None:
        pause = RECONNECT
        while not self._closed:
            try:
                link = self._listen()
            except RedisError:
                self._wakeup.wait(pause)
                pause = min(pause * 2, LAST_RECONNECT)
                continue
            with self._joining:
                self._link = link
                self._join(link)
            self._hear("")
            return
