"""A storage of your own: a store in the memory of one process, which others use over a Unix socket.

    $ python examples/socket_storage.py
    another process worked: tea

It passes `eventq.testing.StorageConformance` (tests/storage/test_socket_storage.py). A connection is a worker: when it
ends, as with its process, the server abandons its `MemoryStorage`. Claims, slots and watches stay there, under a token,
but a watch's pipe is passed on; all else is JSON, read by the seam's annotations. If the server dies, all is lost.
"""

from __future__ import annotations

import os
import tempfile
import threading
from contextlib import closing, suppress
from functools import partial, partialmethod
from multiprocessing import get_context
from multiprocessing.connection import Client, Connection, Listener
from multiprocessing.reduction import recv_handle, send_handle
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

from msgspec import Raw, json, structs

from eventq import App, clock, errors
from eventq.model import Claimed, Edit, Outcome
from eventq.storage.base import Storage
from eventq.storage.forks import follow
from eventq.storage.memory import MemoryStorage

# What is called by its name on both sides; the types of arguments, in order, and results; what an argument may be.
SEAM = {*Storage.__abstractmethods__, "restore"} - {"worker"}
TYPES = {name: get_type_hints(getattr(Storage, name)) for name in SEAM} | {"worker": {}, "clear": {}, "release": {}}
KINDS = {kind.__name__: kind for kind in get_args(Outcome | Edit)}


class Desk:
    """The server's side of a connection: a worker, and what it holds, by token."""

    def __init__(self, connection: Connection, storage: MemoryStorage) -> None:
        self.connection, self.storage, self.held = connection, storage, dict[str, Any]({"": storage})

    def serve(self) -> None:
        with self.connection, suppress(EOFError, OSError, errors.StorageClosed):  # it died, or has left
            try:
                while True:
                    self.answer(*json.decode(self.connection.recv_bytes(), type=tuple[str, str, str, dict[str, Raw]]))
            finally:
                self.storage.abandon()

    def answer(self, token: str, name: str, kind: str, raw: dict[str, Raw]) -> None:
        types = TYPES[name] | {"outcome": KINDS.get(kind), "edit": KINDS.get(kind), "keep": float | None}
        word, thing = "ok", self.held.get(token)
        try:
            arguments = {key: json.decode(value, type=types.get(key, Any)) for key, value in raw.items()}
            if thing is None:
                raise errors.ClaimLost("it is not held here: it was settled or released, or by another connection")
            if isinstance(thing, Claimed):
                thing.keep, arguments["claimed"], thing = arguments.pop("keep"), thing, self.storage
            result: Any = thing.worker if name == "worker" else getattr(thing, name)(**arguments)
            if name == "claim":
                result = [structs.replace(one, token=self.hold(one)) for one in result]
        except (errors.EventqError, TypeError, ValueError) as error:
            word, result = type(error).__name__, error.__reduce__()[1]
        if name in ("settle", "release", "close") and word in ("ok", "ClaimLost"):
            self.held.pop(token, None)
        cancelled = [key for key, held in self.held.items() if getattr(held, "cancelled", False)]
        self.connection.send_bytes(json.encode((word, result, cancelled), enc_hook=self.hold))  # of slots and watches
        if (name, word) == ("watch", "ok"):
            send_handle(self.connection, result.fileno(), 0)

    def hold(self, thing: Any) -> str:
        self.held[token := os.urandom(8).hex()] = thing  # not a token that an earlier connection had for another
        return token


class Server(threading.Thread):
    """Serves a store to all who connect to a path, each in a thread, until it is closed."""

    def __init__(self, path: str, clock: clock.Clock = clock.SYSTEM) -> None:
        super().__init__(daemon=True)
        self.path, self.clock, self.closed, self.listener = path, clock, False, Listener(path, "AF_UNIX", backlog=128)
        self.start()

    def run(self) -> None:
        while not self.closed:
            desk = Desk(self.listener.accept(), MemoryStorage(self.path, clock=self.clock))
            threading.Thread(target=desk.serve, daemon=True).start()

    def close(self) -> None:
        self.closed = True
        Client(self.path, "AF_UNIX").close()  # it wakes, and sees that
        self.join()
        self.listener.close()
        MemoryStorage.forget(self.path)


class SocketStorage(Storage):
    """One worker of the store that a `Server` serves at a path."""

    def __init__(self, path: str) -> None:
        self.path, self.closed, self.said = path, False, dict[str, Any](queues=(), tasks=())
        self.connection: Any = None
        self.after_fork()
        follow(self)

    def after_fork(self) -> None:
        """Without a connection. A forked child must not keep its parent's, or nobody sees the parent die."""
        if self.connection is not None:
            self.connection.close()
        self.connection, self.claims, self.asking, self.lock = None, dict[str, Claimed](), False, threading.RLock()

    def join(self) -> None:
        """At the first call, and after one that was broken off: its answer must not be taken for the next one's."""
        if self.closed:
            raise errors.StorageClosed("this store was closed; open a new one")
        if self.connection is None or self.asking:
            try:
                self.connection, self.asking = Client(self.path, "AF_UNIX"), False
            except OSError as error:
                raise errors.StorageError(f"nobody serves a store at {self.path}: {error}") from error
            self.call("introduce", **self.said)

    def call(self, name: str, /, *args: Any, token: str = "", **kwargs: Any) -> Any:
        arguments = dict(zip(TYPES[name], args, strict=False), **kwargs)
        kind = type(arguments.get("outcome") or arguments.get("edit")).__name__
        if (claimed := arguments.pop("claimed", None)) is not None:
            token, arguments["keep"] = claimed.token, claimed.keep
        with self.lock:
            self.join()
            try:
                request = json.encode((token, name, kind, arguments))
                self.asking = True
                self.connection.send_bytes(request)
                word, answer, cancelled = json.decode(self.connection.recv_bytes(), type=tuple[str, Raw, list[str]])
                pipe = recv_handle(self.connection) if (name, word) == ("watch", "ok") else None
                self.asking = False
            except UnicodeEncodeError as error:
                raise errors.ConfigError(f"{error.object!r} is not valid Unicode text") from error
            except (EOFError, OSError) as error:
                raise errors.OutcomeUnknown(f"the server at {self.path} went away within {name}") from error
            for key in self.claims.keys() & cancelled:
                self.claims[key].cancelled = True
            if name == "settle" and word in ("ok", "ClaimLost"):
                self.claims.pop(token, None)
            if word != "ok":
                raise getattr(errors, word, TypeError if word == "TypeError" else ValueError)(*json.decode(answer))
            if name in ("watch", "take_slot"):
                return (key := json.decode(answer)) and self.held(key, pipe)
            result = json.decode(answer, type=TYPES[name].get("return", Any))
            if name == "claim":
                self.claims.update({one.token: one for one in result})
            elif name == "introduce":
                self.said = arguments
            return result

    for method in SEAM:
        vars()[method] = partialmethod(call, method)
    vars()["worker"] = property(lambda self: self.call("worker"))

    def held(self, token: str, pipe: int | None) -> Any:
        """A slot, or a watch: its methods, which call the one that the server has."""
        words = {word: partial(self.tell, word, token) for word in ("clear", "close", "release")}
        return SimpleNamespace(**words, fileno=None if pipe is None else Connection(pipe, writable=False).fileno)

    def tell(self, word: str, token: str) -> None:
        with suppress(errors.StorageError, errors.ClaimLost):  # the server has nothing of this any more
            self.call(word, token=token)

    def close(self) -> None:
        self.tell("close", token="")
        self.abandon()

    def abandon(self) -> None:
        self.closed = True
        self.after_fork()


def work(path: str) -> None:
    with App(storage=SocketStorage(path)) as app:  # type: ignore[abstract]  # mypy does not see the loop
        for claim in app.queue("orders").claims(timeout=0):
            with claim as event:
                print("another process worked:", event.payload)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, closing(Server(folder + "/store")) as server:
        with App(storage=SocketStorage(server.path)) as app:  # type: ignore[abstract]
            app.queue("orders").put("tea")
        worker = get_context("spawn").Process(target=work, args=(server.path,))
        worker.start()
        worker.join()


if __name__ == "__main__":
    main()
