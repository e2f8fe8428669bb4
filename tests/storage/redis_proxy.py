"""A connection that is cut when a test says so: between a storage and its server, on a port of its own."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Proxy:
    """Passes everything on, but for the reply to the first request that has some bytes in it: the request reaches the
    server, and both ends are closed when the reply comes back."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "localhost", parts.port or 6379)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.url: str = parts._replace(netloc=f"127.0.0.1:{self.port}").geturl()
        self._fatal = b""
        self._times = 0
        self.cuts: int = 0
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _shut(self._listening)
        self._listening.close()
        self.cut_all()
        for thread in self._threads:
            thread.join(10.0)

    def lose_reply_to(self, words: bytes, times: int = 1) -> None:
        """Of the next requests with these bytes the replies are lost."""
        self._fatal, self._times = words, times

    def cut_all(self) -> None:
        """Cut all connections that are open."""
        for end in list(self._open):
            _shut(end)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return  # the test is over
            self._start(self._connection, client, socket.create_connection(self._server))

    def _connection(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            self._open += (client, server)
            doomed = threading.Event()
            replies = threading.Thread(target=self._replies, args=(client, server, doomed), daemon=True)
            replies.start()
            self._requests(client, server, doomed)
            replies.join(10.0)
            self._open.remove(client)
            self._open.remove(server)

    def _requests(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        while data := _receive(client):
            if self._times and self._fatal in data:
                self._times -= 1
                self.cuts += 1
                doomed.set()
            _send(server, data)
        _shut(server)

    def _replies(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        while (data := _receive(server)) and not doomed.is_set():
            _send(client, data)
        _shut(client)
        _shut(server)


def _receive(end: socket.socket) -> bytes:
    try:
        return end.recv(1 << 16)
    except OSError:
        return b""


def _send(end: socket.socket, data: bytes) -> None:
    try:
        end.sendall(data)
    except OSError:
        _shut(end)


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
