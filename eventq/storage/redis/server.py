"""The connections of one storage object: a call takes a free one, or opens one; what was lost is asked for again."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import RedisError

from eventq.clock import SYSTEM
from eventq.errors import OutcomeUnknown, StorageClosed, StorageError
from eventq.storage.redis.connection import Argument, Link
from eventq.storage.redis.failures import failure, is_worth_waiting, unreachable
from eventq.storage.redis.scripts import script

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventq.storage.redis.scripts import Script
    from eventq.storage.redis.url import Address

    Arguments = Callable[[Link], tuple[Argument, ...]]

T = TypeVar("T")
log: logging.Logger = logging.getLogger("eventq.storage")

CLOSED = "this store was closed; open it again with eventq.App(...)"
FIRST_PAUSE = 0.05
LAST_PAUSE = 0.5
RECEIPT_SECONDS = b"7200"
"""For how long the receipts of a worker are kept that renews them no more: only so that they go."""
RENEWAL = 600.0
"""Seconds between two renewals of the receipts."""
AGAIN = b"AGAIN"
"""What a script answers that has done a step of something long: call it again."""


class Server:
    """The server as one storage object speaks to it, by any number of threads.

    A call that has lost its connection is made again on a new one, until the patience is over. Before that, the server
    is told to end the lost connection: so what was sent on it has happened by then, or never will, and the script that
    is called again finds out which.
    """

    def __init__(self, address: Address, name: str) -> None:
        self.address: Address = address
        self._name = name
        self._free: deque[Link] = deque()
        self._links: set[Link] = set()
        """Also those in use: a forked child closes them all."""
        self._lock = threading.Lock()
        self._opened = 0
        self._closing = threading.Event()
        self._renewed = -math.inf
        self._is_lost = False
        self.patience: float = address.patience
        """Seconds for which a lost connection is tried again."""
        self.store: bytes = b""
        """The name that the store had when this worker joined it last: another one when all its data had gone."""
        self.run: str = ""
        """Which run of the server the last new connection met."""

    # ------------------------------------------------------------------ calls

    def call(self, name: str, *arguments: Argument, again: bytes = b"") -> Any:
        """The reply of a script that may run twice with the same arguments; `again` is what it is told then."""
        return self._call(script(name), lambda _: arguments, again)

    def change(self, name: str, *arguments: Argument) -> Any:
        """The reply of a script that must not run twice: the server keeps a receipt of it."""
        receipt: tuple[Argument, ...] = ()

        def receipted(link: Link) -> tuple[Argument, ...]:
            nonlocal receipt
            if not receipt:  # the same one if it is asked for again, on whichever connection
                link.number += 1
                receipt = self._name, link.name, link.number, self._renewal()
            return receipt + arguments

        return self._call(script(name), receipted, b"")

    def _renewal(self) -> bytes:
        """For how long to keep the receipts from now on; empty if that was said lately."""
        now = SYSTEM.monotonic()
        if now - self._renewed < RENEWAL:
            return b""
        self._renewed = now
        return RECEIPT_SECONDS

    def _call(self, script: Script, arguments: Arguments, again: bytes) -> Any:
        while (reply := self._one_call(script, arguments, again)) == AGAIN:
            continue
        return reply

    def _one_call(self, script: Script, arguments: Arguments, again: bytes) -> Any:
        sent: Link | None = None
        try:
            link = self._take()
            sent = link
            reply = link.run_script(script, arguments(link), None)
        except RedisError as error:
            return self._call_again(script, arguments, again, sent, error)
        except BaseException:
            if sent is not None:
                self._drop(sent)  # its reply is still to come
            raise
        self._free.append(link)
        return reply

    def _call_again(
        self, script: Script, arguments: Arguments, again: bytes, sent: Link | None, error: RedisError
    ) -> Any:
        """What to do about a call that failed: nothing, or the same again as long as there is patience."""
        ambiguous = sent is not None and is_worth_waiting(error)
        for _ in self._attempts(error, sent):
            link = None
            try:
                link = self._open()
                if sent is not None and sent.run == link.run:
                    link.end_other(sent.client)
                reply = link.run_script(script, arguments(link), again if ambiguous else None)
            except RedisError as another:
                error = another
                if link is not None:
                    self._drop(link)
                    sent, ambiguous = link, ambiguous or is_worth_waiting(another)
                if not is_worth_waiting(another):
                    break
            else:
                self._found()
                self._free.append(link)
                return reply
        raise self._given_up(script.name.replace("_", " "), error, ambiguous) from error

    def patiently(self, doing: str, work: Callable[[], T]) -> T:
        """What some work returns that may be done twice; done again as long as there is patience."""
        try:
            return work()
        except RedisError as first:
            error = first
        for _ in self._attempts(error, None):
            try:
                found = work()
            except RedisError as another:
                error = another
                if not is_worth_waiting(another):
                    break
            else:
                self._found()
                return found
        raise self._given_up(doing, error, False) from error

    def _given_up(self, doing: str, error: RedisError, ambiguous: bool) -> StorageError:
        shown = self.address.shown
        if ambiguous:
            return OutcomeUnknown(
                f"the connection to {shown} was lost while it had to {doing}, and that was not to be had again within "
                f"{self.patience:g} s (patience= in the URL); whether it happened is not known: {error}"
            )
        if is_worth_waiting(error):
            return StorageError(unreachable(shown, error))
        return failure(shown, error, self.address.user, doing)

    def _attempts(self, error: RedisError, sent: Link | None) -> Iterator[None]:
        """One turn for each further attempt, the first at once; none if the error is not worth it."""
        if sent is not None:
            if not is_worth_waiting(error):
                self._free.append(sent)  # it has said what it had to say
                return
            self._drop(sent)
        elif not is_worth_waiting(error):
            return
        self._forget_free()
        deadline = SYSTEM.monotonic() + self.patience
        pause = 0.0
        while True:
            if self._closing.wait(min(pause, max(0.0, deadline - SYSTEM.monotonic()))):
                raise StorageClosed(CLOSED)
            yield
            if pause:
                self._lost()
            if SYSTEM.monotonic() >= deadline:
                return
            pause = min(max(2 * pause, FIRST_PAUSE), LAST_PAUSE)

    def _lost(self) -> None:
        with self._lock:
            was, self._is_lost = self._is_lost, True
        if not was:
            log.warning("lost the connection to %s; trying for %g s", self.address.shown, self.patience)

    def _found(self) -> None:
        with self._lock:
            was, self._is_lost = self._is_lost, False
        if was:
            log.info("the connection to %s is back", self.address.shown)

    # ------------------------------------------------------------------ connections

    def open_first(self) -> None:
        """Connect, or say at once why not. Raises StorageError."""
        try:
            self._free.append(self._open())
        except RedisError as error:
            if is_worth_waiting(error):
                raise StorageError(unreachable(self.address.shown, error)) from error
            raise failure(self.address.shown, error, self.address.user, "open") from error

    def open_link(self) -> Link:
        """A connection of the caller's own, closed with the others. Raises what redis-py raises."""
        return self._open()

    def _take(self) -> Link:
        try:
            return self._free.pop()
        except IndexError:
            return self._open()

    def _open(self) -> Link:
        if self._closing.is_set():
            raise StorageClosed(CLOSED)
        with self._lock:
            self._opened += 1
            name = str(self._opened)
        link = Link(self.address, f"{self._name}-{name}", name)
        with self._lock:
            if not self._closing.is_set():
                self._links.add(link)
                self.run = link.run
                return link
        link.close()  # `close` came meanwhile, which has cut only those it knew
        raise StorageClosed(CLOSED)

    def _drop(self, link: Link) -> None:
        with self._lock:
            self._links.discard(link)
        link.close()

    def drop(self, link: Link) -> None:
        """Close a connection that `open_link` has made."""
        self._drop(link)

    def _forget_free(self) -> None:
        """Where one connection was lost, those that wait are lost as well."""
        while self._free:
            try:
                self._drop(self._free.pop())
            except IndexError:
                return

    # ------------------------------------------------------------------ the end

    @property
    def has_receipts(self) -> bool:
        """Whether the server keeps any."""
        return self._renewed > 0

    @property
    def is_closed(self) -> bool:
        return self._closing.is_set()

    def close(self) -> None:
        """Close every connection; calls that wait for a reply fail. Harmless when repeated."""
        self._closing.set()
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()
        self._forget_free()

    def disown(self) -> None:
        """In a forked child: close its copies of the parent's connections, so that the parent's death is seen. Takes no
        lock, which a thread of the parent may hold."""
        self._closing.set()
        for link in list(self._links):
            link.close()
