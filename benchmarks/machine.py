"""Where and with what a run was made, so that its figures can be judged."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.measured import Measured


def describe(folder: Path, systems: list[type[Measured]]) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "file_system": file_system(folder),
        "commit": _commit(),
        "versions": {system.family: system.version() for system in systems},
    }


def lines(machine: dict[str, Any]) -> tuple[str, str]:
    """The hardware, and the software with the day."""
    hardware = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    software = ", ".join(machine[name] for name in ("system", "file_system", "python"))
    return hardware, f"{software}, SQLite {machine['sqlite']}, {machine['date']}"


def sentence(machine: dict[str, Any]) -> str:
    return "; ".join(lines(machine))


def file_system(folder: Path) -> str:
    """The type of the file system that holds the folder; for ext4 also whether it has a journal."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return "unknown file system"
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            kind, source = right.split()[:2]
            if kind != "ext4":
                return kind
            journals = Path("/proc/fs/jbd2")
            name = Path(source).resolve().name
            found = journals.is_dir() and any(path.name.startswith(f"{name}-") for path in journals.iterdir())
            return "ext4" if found else "ext4 without a journal"
    return "unknown file system"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.machine()


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
