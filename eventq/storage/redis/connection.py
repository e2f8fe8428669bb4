"""One connection: redis-py's own, used directly, for its pools and commands cost more than the call itself."""

from __future__ import annotations

import re
import struct
from socket import SHUT_RDWR, SO_RCVTIMEO, SO_SNDTIMEO, SOL_SOCKET
from socket import socket as Socket  # noqa: N812 - `socket` is what the attribute is called
from ssl import SSLSocket
from typing import TYPE_CHECKING, Any

from redis.connection import Connection, SSLConnection
from redis.exceptions import NoScriptError, ResponseError

from eventq.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventq.storage.redis.scripts import Script
    from eventq.storage.redis.url import Address

OLDEST = (6, 2)
"""The first version of Redis that has all commands that the scripts call."""
CONNECT_SECONDS = 3.0
"""For each step of connecting: who speaks TLS to a plain port gets no answer at all."""
LEAST_REPLY_SECONDS = 1.0

Argument = bytes | str | int


class _InSight:
    """Keeps the socket in sight: who closes from another thread must end a read that waits."""

    socket: Socket

    def _connect(self) -> Socket:
        parent: Any = super()
        self.socket = parent._connect()  # noqa: SLF001 - made to be overridden, and so by TLS
        return self.socket


class _Plain(_InSight, Connection):
    pass


class _Encrypted(_InSight, SSLConnection):
    pass


HEADS = [b"\r\n$%d\r\n" % length for length in range(512)]
"""What stands before a word of each length."""


class _Packer:
    """Commands as they are sent, in a quarter of redis-py's own time; it asks for one of these (`command_packer`)."""

    def pack(self, *words: Argument) -> list[bytes]:
        parts = [b"*%d" % len(words)]
        for word in words:
            data = word if type(word) is bytes else str(word).encode()
            length = len(data)
            parts.append(HEADS[length] if length < 512 else b"\r\n$%d\r\n" % length)
            parts.append(data)
        parts.append(b"\r\n")
        return [b"".join(parts)]


class Link:
    """An open connection to the server of an address; made by one thread, used by one at a time.

    Raises what redis-py raises, and StorageError if the server is too old.
    """

    __slots__ = ("_connection", "_prefix", "client", "name", "number", "run")

    def __init__(self, address: Address, client: str, name: str = "") -> None:
        self.name: bytes = name.encode()
        """Under which the server keeps the receipt of the last change."""
        self.number: int = 0
        """How many changes were sent."""
        self._prefix = address.prefix.encode()
        options: dict[str, Any] = {
            "host": address.host, "port": address.port, "db": address.db, "username": address.user,
            "password": address.password, "protocol": 2, "command_packer": _Packer(), "client_name": f"eventq-{client}",
            "socket_timeout": CONNECT_SECONDS,
        }  # fmt: skip
        kind: Any = _Plain if address.tls is None else _Encrypted
        self._connection = kind(**options, **(address.tls or {}))
        try:
            self._connection.connect()
            facts = _facts(self.command("INFO", "server"))
            self.client: int = self.command("CLIENT", "ID")
        except BaseException:
            self._connection.disconnect()
            raise
        self._connection.socket_timeout = max(address.patience, LEAST_REPLY_SECONDS)
        _bound(self._connection.socket, self._connection.socket_timeout)
        self.run: str = facts.get("run_id", "")
        """Another text after each restart of the server."""
        version = facts.get("redis_version", "0")
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
            self.close()
            oldest = ".".join(map(str, OLDEST))
            raise StorageError(f"{address.shown} is a Redis {version}; eventq needs {oldest} or later")

    def command(self, *words: Argument) -> Any:
        """The reply to a command."""
        self._connection.send_command(*words, check_health=False)
        return self._connection.read_response()

    def run_script(self, script: Script, arguments: Sequence[Argument], again: bytes | None) -> Any:
        """The reply of a script. `again`: it may have run before, and is told so by a second key, which ends so."""
        keys = (b"1", self._prefix) if again is None else (b"2", self._prefix, self._prefix + again)
        connection = self._connection
        try:
            packed = connection.pack_command(b"EVALSHA", script.digest, *keys, *arguments)
            connection.send_packed_command(packed, check_health=False)
            return connection.read_response()
        except NoScriptError:  # the first call since the server started, or since its scripts were flushed
            packed = connection.pack_command(b"EVAL", script.source, *keys, *arguments)
            connection.send_packed_command(packed, check_health=False)
            return connection.read_response()

    def end_other(self, client: int) -> None:
        """What another connection has sent is done by now, or will never be."""
        try:
            self.command("CLIENT", "KILL", "ID", client)
        except ResponseError:
            return  # this user may not; then the server has most likely seen itself that it is gone

    # ------------------------------------------------------------------ listening

    def subscribe(self, *channels: str) -> None:
        """Hear what is published in these channels, from now on."""
        self._connection.send_command("SUBSCRIBE", *channels, check_health=False)
        for _ in channels:
            self._connection.read_response()

    def fileno(self) -> int:
        """Readable when something came; -1 once closed."""
        found: Socket = self._connection.socket
        return found.fileno()

    def heard(self) -> list[str]:
        """What has come so far; never waits."""
        words = []
        while self._connection.can_read(0):
            reply = self._connection.read_response()
            if reply[0] == b"message":
                words.append(reply[2].decode())
        return words

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """Harmless when repeated. In a forked child nothing is said on the connection, which is the parent's."""
        self._connection.disconnect()

    def cut(self) -> None:
        """From another thread: end whatever waits on it, as if the server had gone."""
        try:
            Socket.shutdown(self._connection.socket, SHUT_RDWR)  # also of an encrypted one, which would say goodbye
        except OSError:
            return  # it is closed already


def _bound(socket: Socket, seconds: float) -> None:
    """Let no call wait for longer. A plain socket is bounded by the kernel: Python would ask that before each call
    whether there is something to wait for."""
    if isinstance(socket, SSLSocket):
        socket.settimeout(seconds)
        return
    socket.settimeout(None)
    whole = int(seconds)
    bound = struct.pack("ll", whole, int((seconds - whole) * 1e6))
    socket.setsockopt(SOL_SOCKET, SO_RCVTIMEO, bound)
    socket.setsockopt(SOL_SOCKET, SO_SNDTIMEO, bound)


def _facts(info: bytes) -> dict[str, str]:
    """What INFO says, by name."""
    pairs = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, _, value in pairs}
