"""Waits that rings and signals end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from eventq.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Iterator

FOR_EVER = 60.0


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    with Wakeup() as wakeup:
        yield wakeup


@pytest.fixture
def deaf() -> Iterator[None]:
    """The kernel hands signals to other threads than this one, the main thread: it sleeps on, as if it had just missed
    them."""
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        over.set()
        other.join()


def test_a_ring_before_the_wait_ends_it(wakeup: Wakeup) -> None:
    wakeup.ring()
    wakeup.ring()
    assert wakeup.wait(FOR_EVER) == b"\0\0"
    assert wakeup.wait(0) == wakeup.wait(0.001) == b""


def test_a_ring_from_another_thread(wakeup: Wakeup) -> None:
    other = threading.Timer(0.01, wakeup.ring)
    other.start()
    assert wakeup.wait(None) == b"\0"
    other.join()


def test_more_rings_than_fit(wakeup: Wakeup) -> None:
    for _ in range(70_000):
        wakeup.ring()
    while wakeup.wait(0):
        pass
    wakeup.ring()
    assert wakeup.clear() == b"\0"


def test_who_rings_too_late_writes_into_no_other_file() -> None:
    wakeup = Wakeup()
    number = wakeup.fileno()
    wakeup.close()
    wakeup.close()
    read, write = os.pipe()  # takes the numbers that have become free
    assert number in (read, write)
    os.set_blocking(read, False)
    wakeup.ring()
    with pytest.raises(BlockingIOError):
        os.read(read, 1)
    os.close(read)
    os.close(write)


@pytest.mark.usefixtures("deaf")
def test_a_signal_that_the_sleeper_missed_wakes_it(wakeup: Wakeup) -> None:
    heard: list[int] = []
    outer = signal.getsignal(signal.SIGUSR1)
    with wakeup.hearing([signal.SIGUSR1], lambda: heard.append(1)):
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert wakeup.wait(None) == bytes([signal.SIGUSR1])
        assert heard == [1]
    assert signal.getsignal(signal.SIGUSR1) is outer
    assert signal.set_wakeup_fd(-1) == -1


PROGRAM = """
import os, signal, threading
import eventq

app = eventq.App("memory://")
signals = {signal.SIGTERM}

@app.task
def nothing(): pass

class Signal(eventq.Middleware):
    def worker_started(self, worker):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()  # its thread hears, the main one does not
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)

app.use(Signal())
print(app.worker().run())
"""


def test_an_idle_worker_stops_on_a_signal_that_its_main_thread_missed() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr
