"""The example of a storage of one's own is one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eventq.errors import OutcomeUnknown, StorageError
from eventq.model import Completed, PutOptions
from eventq.testing import FakeClock, StorageConformance

EXAMPLES = str(Path(__file__).resolve().parents[2] / "examples")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventq.storage.base import Storage


@pytest.fixture
def socket_storage(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [EXAMPLES, *sys.path])
    import socket_storage

    return socket_storage


@pytest.fixture
def server(socket_storage: Any, clock: FakeClock) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder:  # names of sockets must be short
        server = socket_storage.Server(folder + "/store", clock)
        yield server
        server.close()


class TestSocketStorage(StorageConformance):
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def open_worker(self, socket_storage: Any, server: Any) -> Callable[[], Storage]:
        return lambda: socket_storage.SocketStorage(server.path)

    @pytest.fixture
    def kill(self) -> Callable[[Any], None]:
        def kill(worker: Any) -> None:
            if worker.connection is not None:  # wait until the server has seen it: a FakeClock gives it no time
                with socket.socket(fileno=os.dup(worker.connection.fileno())) as line:
                    line.shutdown(socket.SHUT_WR)
                    line.settimeout(30)
                    assert not line.recv(1)
            worker.abandon()

        return kill


def test_a_killed_process_gives_back_what_it_had(socket_storage: Any, server: Any, clock: FakeClock) -> None:
    with socket_storage.SocketStorage(server.path) as store:
        store.put("q", [b"1"], PutOptions())
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:  # with the storage of its parent, which is a worker of its own here
            os.write(writer, store.worker.encode() if store.claim("q") else b"nothing")
            signal.pause()
        child = os.read(reader, 100).decode()
        assert {worker.id: len(worker.claims) for worker in store.workers()} == {store.worker: 0, child: 1}
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        deadline, found = time.monotonic() + 30, []
        while not found and time.monotonic() < deadline:
            clock.advance(store.recover())  # the server's, which sees the death when it comes to it
            found = store.claim("q")
        (claimed,) = found
        assert claimed.crashes == 1
        store.settle(claimed, Completed())
        os.close(reader)
        os.close(writer)


def test_a_killed_server_is_an_error_and_then_nobody_serves(socket_storage: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/store"
        program = (
            f"import signal, socket_storage; s = socket_storage.Server({path!r}); print(flush=True); signal.pause()"
        )
        with subprocess.Popen([sys.executable, "-c", program], cwd=EXAMPLES, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            store = socket_storage.SocketStorage(path)
            store.put("q", [b"1"], PutOptions())
            watch = store.watch("q")
            process.kill()
        with pytest.raises(OutcomeUnknown, match="went away"):
            store.claim("q")
        with pytest.raises(StorageError, match="nobody serves a store"):
            store.claim("q")
        watch.clear()
        watch.close()
        store.close()


def test_a_wrong_call_costs_no_more_than_itself(socket_storage: Any, server: Any) -> None:
    with socket_storage.SocketStorage(server.path) as store:
        worker = store.worker
        with pytest.raises(TypeError):
            store.put("q", [b"1"], PutOptions(), thing=1)
        with pytest.raises(ValueError):
            store.claim("q", "many")
        assert store.worker == worker


def test_after_a_call_that_was_broken_off_the_next_gets_its_own_answer(socket_storage: Any, server: Any) -> None:
    with socket_storage.SocketStorage(server.path) as store:
        store.introduce(["q"], [])
        worker, store.asking = store.worker, True  # as an exception leaves it that comes before the answer
        store.connection.send_bytes(b'["", "queues", "", {}]')
        assert store.names() == []
        assert store.worker != worker
        assert store.workers()[-1].serves == ("q",)


def test_where_nobody_serves_is_an_error(socket_storage: Any, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nobody serves a store"):
        socket_storage.SocketStorage(str(tmp_path / "nobody")).queues()
