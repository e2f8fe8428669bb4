"""Functions that tests have child processes run, and the runner that calls them."""

from __future__ import annotations

import ctypes
import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from eventq import Reject, Retry
from eventq.clock import SYSTEM, sleep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventq.child import Order, Report

encode = msgspec.json.encode


def carry_out(order: Order, target: Callable[..., Any], report: Report) -> bytes | None:
    """The runner of these tests: the payload is the list of arguments."""
    args = msgspec.json.decode(order.payload)
    if "report" in inspect.signature(target).parameters:
        args = [report, *args]
    elif "order" in inspect.signature(target).parameters:
        args = [order, *args]
    value = target(*args)
    if inspect.isgenerator(value):
        for each in value:
            report.yielded(encode(each))
        return None
    return encode(value)


# ---------------------------------------------------------------- that return


def add(one: int, two: int) -> int:
    return one + two


def pid() -> int:
    return os.getpid()


def about(order: Order) -> dict[str, Any]:
    seen: dict[str, Any] = msgspec.to_builtins(order)
    return seen | {"payload": ""}


def size_of(text: str) -> int:
    return len(text)


def text_of(size: int) -> str:
    return "x" * size


class Shelf:
    @staticmethod
    def book() -> str:
        return "found"


def descriptors() -> list[str]:
    """What this process has open, by where it leads."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # the listing's own
    return found


def descriptor_count() -> int:
    return len(os.listdir("/proc/self/fd"))


def dispositions() -> list[bool]:
    """Whether SIGINT is ignored, SIGTERM as the system does it; whether this process leads its group."""
    return [
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
        os.getpgrp() == os.getpid(),
    ]


def with_a_pool(numbers: list[int]) -> list[int]:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.map(abs, numbers)


def is_imported(module: str) -> bool:
    return module in sys.modules


def grow(megabytes: int) -> int:
    return len(b"x" * (megabytes << 20))  # written to: untouched pages take no memory


# ---------------------------------------------------------------- that raise


def divide(one: int, by: int) -> float:
    return one / by


class Custom(LookupError):
    pass


def raise_(kind: str) -> None:
    errors = {"retry": Retry(7.5, "later"), "reject": Reject("never"), "custom": Custom("my own")}
    raise errors[kind]


def leave(code: Any) -> None:
    sys.exit(code)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raise_unprintable() -> None:
    raise Unprintable


# ---------------------------------------------------------------- that die


def exit_at_once(code: int) -> None:
    os._exit(code)


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def segfault() -> None:
    ctypes.string_at(0)


def close_everything() -> None:
    os.closerange(3, 256)
    threading.Event().wait()


def fork_and_return() -> str:
    """Both processes come back from here; only one may be heard."""
    if os.fork():
        os.wait()
        return "parent"
    return "fork"


# ---------------------------------------------------------------- that do not end by themselves


def spin(report: Report) -> None:
    report.note("began", encode(os.getpid()))
    while True:
        pass


def hold_the_interpreter(report: Report) -> None:
    """In C, for an hour, without letting any other thread run."""
    report.note("began", encode(os.getpid()))
    ctypes.PyDLL(None).sleep(3600)


def wait_in_kernel(report: Report) -> None:
    report.note("began", encode(os.getpid()))
    sleep(3600)


def ignore_sigterm(report: Report) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    report.note("began", encode(os.getpid()))
    while True:
        signal.pause()


def tidy_up(report: Report) -> str:
    """Catches SIGTERM, and comes to an end with a last word."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    report.note("began", encode(os.getpid()))
    told.wait()
    print("tidied up")
    report.note("tidied", b"true")
    return "late"


def start_a_subprocess_and_spin(report: Report) -> None:
    started = subprocess.Popen(["sleep", "3600"])
    report.note("began", encode([os.getpid(), started.pid]))
    while True:
        pass


def flood(report: Report) -> None:
    while True:
        report.note("progress", b"1")
        print("line")


# ---------------------------------------------------------------- that say something


def count_up(report: Report, to: int) -> None:
    for number in range(to):
        report.note("progress", encode({"done": number}))


def count_up_in_threads(report: Report, threads: int, to: int) -> None:
    started = [threading.Thread(target=count_up, args=(report, to)) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


def squares(to: int) -> Iterator[int]:
    for number in range(to):
        yield number * number


_kept: list[Any] = []


def keep_report(report: Report) -> None:
    _kept.append(report)


def use_kept_report() -> str:
    try:
        _kept[0].note("stray", b"1")
    except Exception as error:
        return type(error).__name__
    return "it was sent"


def print_in_all_ways() -> None:
    print("1 print")
    os.write(1, b"2 os.write\n")
    subprocess.run(["sh", "-c", "echo 3 subprocess; echo 3 error >&2"], check=True)
    print("4 print")
    print("5 error", file=sys.stderr)
    sys.stdout.write("5 without an end of line")


def print_in_c(text: str) -> None:
    ctypes.CDLL(None).printf(b"%s", text.encode())


def print_bytes(hexadecimal: list[str]) -> None:
    for each in hexadecimal:
        os.write(1, bytes.fromhex(each))


def print_much(lines: int) -> None:
    for number in range(lines):
        print(number, "x" * 100)


def print_and_die() -> None:
    print("last words")
    os.kill(os.getpid(), signal.SIGKILL)


def print_(text: str) -> None:
    print(text)


def replace_stdout() -> None:
    """What careless functions do: nothing of it may harm the next run."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def print_later(marker: str) -> None:
    """A thread stays behind and prints when the file `marker` has come."""

    def wait_and_print() -> None:
        until = SYSTEM.monotonic() + 30
        while not os.path.exists(marker) and SYSTEM.monotonic() < until:
            sleep(0.001)
        os.write(1, b"stray\n")
        os.rename(marker, f"{marker}.seen")

    threading.Thread(target=wait_and_print, daemon=True).start()
