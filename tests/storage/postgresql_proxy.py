"""A way to a PostgreSQL server that is cut while a reply is on its way: the request was done, and nobody knows."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Listens on a port of its own and hands everything on, both ways, until told otherwise."""

    def __init__(self, server_port: int, port: int = 0) -> None:
        self._server_port = server_port
        self._marker: bytes | None = None
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.cuts: int = 0
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, marker: bytes) -> None:
        """Hand on the next request that has these bytes in it, and let its connection end with the reply unheard."""
        with self._lock:
            self._marker = marker

    def close(self) -> None:
        _end(self._listening)
        for pair in self._pairs:
            _end(*pair)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._pairs.append((client, server))
                lost = threading.Event()
                threading.Thread(target=self._requests, args=(client, server, lost), daemon=True).start()
                threading.Thread(target=self._replies, args=(client, server, lost), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, lost: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                if self._is_marked(data):
                    lost.set()
                server.sendall(data)
        if not lost.is_set():
            _end(client, server)

    def _replies(self, client: socket.socket, server: socket.socket, lost: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if lost.is_set() and is_done(data):
                    self.cuts += 1
                    break
                if not lost.is_set():
                    client.sendall(data)
        _end(client, server)

    def _is_marked(self, data: bytes) -> bool:
        with self._lock:
            if self._marker is None or self._marker not in data:
                return False
            self._marker = None
            return True


def is_done(data: bytes) -> bool:
    """Whether the server has said that it is ready for the next request, in no transaction: all is committed."""
    return data.endswith(b"Z\0\0\0\5I")


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
