"""Waiting for news: a watch rings a bell of this process; that somebody here listens is said in the store."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from eventq.errors import StorageError
from eventq.storage.bells import Bells, PipeWatch

if TYPE_CHECKING:
    from eventq.storage.redis.looks import Claims
    from eventq.storage.redis.server import Server


class RedisWatch:
    """A watch; see `Storage.watch`."""

    def __init__(self, watching: Watching, kind: str, name: str, pipe: PipeWatch) -> None:
        self._watching = watching
        self._kind = kind
        self._name = name
        self._pipe = pipe

    def fileno(self) -> int:
        """Readable when there is a wake; -1 once closed."""
        return self._pipe.fileno()

    def clear(self) -> None:
        self._pipe.clear()

    def close(self) -> None:
        """Stop watching; harmless when repeated."""
        if self._pipe.fileno() >= 0:
            self._watching.close_watch(self._kind, self._name, self._pipe)


class Watching:
    """The watches of one storage object, and what it does when it hears a word."""

    def __init__(self, server: Server, worker: str, claims: Claims) -> None:
        self._server = server
        self._worker = worker
        self._claims = claims
        self._bells_lock = threading.RLock()
        self._bells = Bells(self._bells_lock)
        self._changing = threading.Lock()
        """Held while a watch is made or closed here and in the store: or the last one's end might come there after the
        next one's beginning."""
        self._counts: dict[tuple[str, str], int] = {}

    def watch(self, kind: str, name: str) -> RedisWatch:
        """A new watch of a queue or an event."""
        with self._changing:
            with self._bells_lock:
                pipe = self._bells.watch(kind, name, lambda _: None)
            self._counts[kind, name] = self._counts.get((kind, name), 0) + 1
            watch = RedisWatch(self, kind, name, pipe)
        try:
            found = self._server.call("watch", self._worker, kind, name)
        except BaseException:
            watch.close()
            raise
        if kind == "event" and found:  # it is over: nobody will tell
            self._ring(kind, name, everybody=True)
        return watch

    def close_watch(self, kind: str, name: str, pipe: PipeWatch) -> None:
        with self._changing:
            if pipe.fileno() < 0:
                return
            pipe.close()
            self._counts[kind, name] -= 1
            if self._counts[kind, name]:
                return
            del self._counts[kind, name]
            if self._server.is_closed:
                return
            try:
                self._server.call("unwatch", self._worker, kind, name)
            except StorageError:
                return  # then it is told in vain once, and forgotten

    def waits(self, queue: str) -> bool:
        """Whether somebody here waits for events of this queue."""
        return ("queue", queue) in self._counts

    def waited_for(self) -> list[tuple[str, str]]:
        """Kinds and names of all that somebody here waits for."""
        return list(self._counts)

    def _ring(self, kind: str, name: str, everybody: bool = False) -> None:
        with self._bells_lock:
            self._bells.ring(kind, name, everybody)

    def hear(self, word: str) -> None:
        """A word for this worker; an empty one if words may have been missed."""
        kind, _, name = word.partition(" ")
        if kind == "queue":
            self._wake_one(name)
        elif kind == "all":
            self._ring("queue", name, everybody=True)
        elif kind == "event":
            self._ring("event", name, everybody=True)
        elif kind == "cancel":
            self._claims.cancel(name)
        elif not word:
            for waited in self.waited_for():
                self._ring(*waited, everybody=True)

    def _wake_one(self, queue: str) -> None:
        """Wake one of those who wait here, and wait on for the others: a put tells a worker but once."""
        self._ring("queue", queue)
        more = self._counts.get(("queue", queue), 0) - 1
        if more > 0:
            ready = self._server.call("watch", self._worker, "queue", queue)
            for _ in range(min(more, ready - 1)):  # what was put while this worker was not on the list
                self._ring("queue", queue)
