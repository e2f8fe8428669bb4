"""Every night at three: count the lines of many files side by side, and then write one report of all of them.

    $ python examples/nightly_report.py
    nightly runs at 2026-01-15 03:00 next
    at 2026-01-15 03:00 it was completed:
    asyncio       ... lines in ... files, the longest of them is ...
    collections   ... lines in ... files, the longest of them is ...
    email         ... lines in ... files, the longest of them is ...
    json          ... lines in ... files, the longest of them is ...
    altogether    ... lines
    ada was told: nightly_report.report was completed
    nightly runs at 2026-01-16 03:00 next

The workers do it: whichever of them looks first when the time has come starts the run, once, and there is no scheduler
to keep alive. So that nobody has to stay up for it, this app has a clock on which it is a second before three.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import eventq

BERLIN = ZoneInfo("Europe/Berlin")
LIBRARY = Path(os.__file__).parent
PACKAGES = ("asyncio", "collections", "email", "json")


class LateAtNight:
    """A clock that stands at one second before three, until it goes as others do."""

    def __init__(self) -> None:
        self._from = datetime(2026, 1, 15, 2, 59, 59, tzinfo=BERLIN).timestamp()
        self._began: float | None = None

    def go(self) -> None:
        self._began = time.monotonic()

    def now(self) -> float:
        return self._from + (0.0 if self._began is None else time.monotonic() - self._began)

    def monotonic(self) -> float:
        return time.monotonic()


if __name__ == "__main__":  # a store for this run alone
    room = tempfile.TemporaryDirectory()
    os.environ.setdefault("EVENTQ_URL", room.name)

clock = LateAtNight()
app = eventq.App(clock=clock)


@dataclasses.dataclass
class Counted:
    package: str
    files: int
    lines: int
    longest: str


@app.task
def count(package: str) -> Counted:
    """Of the sources of Python's own library, as they are when it runs."""
    lines = {path.name: len(path.read_bytes().splitlines()) for path in (LIBRARY / package).rglob("*.py")}
    return Counted(package, len(lines), sum(lines.values()), max(lines, key=lambda name: lines[name]))


@app.task(notify="ada")
def report(counts: list[Counted]) -> str:
    rows = [
        f"{each.package:13} {each.lines:6} lines in {each.files:2} files, the longest of them is {each.longest}"
        for each in counts
    ]
    return "\n".join([*rows, f"{'altogether':13} {sum(each.lines for each in counts):6} lines"])


nightly = app.chord([(count, package) for package in PACKAGES], report)
app.schedule("nightly", "0 3 * * *", nightly, tz="Europe/Berlin")


def scheduled() -> eventq.Schedule:
    schedule = app.schedules.get("nightly")
    assert schedule is not None
    return schedule


def local(moment: datetime | None) -> str:
    return "-" if moment is None else moment.astimezone(BERLIN).strftime("%Y-%m-%d %H:%M")


def main() -> None:
    app.schedules.reconcile()  # as every worker does that starts: what the program declares is stored
    print("nightly runs at", local(scheduled().next), "next")
    clock.go()
    with app.worker():
        while (id := scheduled().last_id) is None:
            time.sleep(0.05)
        run = app.workflows.run(id)
        text = run.result(timeout=60)
        print(f"at {local(scheduled().last)} it was {run.status()}:")
        print(text)
    for told in app.notifications.list("ada", unread=True):
        print("ada was told:", told.message)
        app.notifications.read("ada", told.id)
    print("nightly runs at", local(scheduled().next), "next")


if __name__ == "__main__":
    with room, app:
        main()
