"""`eventq doctor`, `fsck`, and the probes behind the first."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from conftest import Run

from eventq.storage.file import probe


def levels(checks: list[probe.Check]) -> dict[str, str]:
    return {check.name: check.level for check in checks}


def test_doctor_of_a_good_place(run: Run, store: str) -> None:
    run("put", "q", "1")
    before = sorted(os.listdir(store))
    done = run("doctor")
    assert done.code == 0, done.out
    assert "fit for a store" in done.out
    names = {check["name"] for check in run("doctor", "--json").json["checks"]}
    assert names >= {"store", "mode", "file system", "space", "clock", *probe.PROBES}
    assert sorted(os.listdir(store)) == before


def test_doctor_does_not_make_a_store(run: Run, store: str, tmp_path: Path) -> None:
    document = run("doctor", "--json").json
    assert document["healthy"] is True
    assert levels([probe.Check(**check) for check in document["checks"]])["store"] == "warning"
    assert not os.path.exists(store)
    assert os.listdir(tmp_path) == []


def test_doctor_is_for_directories(eventq: Run) -> None:
    assert eventq("--store", "memory://", "doctor").code == 2
    assert eventq("--store", "memory://", "fsck").code == 2


def test_an_error_exits_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"rename": lambda folder: probe.Check("rename", "error", "broken", "buy another")}
    monkeypatch.setattr(probe, "PROBES", broken)
    done = run("doctor")
    assert done.code == 1
    assert "buy another" in done.out
    assert "not fit" in done.out
    assert run("doctor", "--json").json["healthy"] is False


def test_every_probe_says_ok_here(tmp_path: Path) -> None:
    found = levels(probe.examine(str(tmp_path / "store")))
    assert {name: found[name] for name in probe.PROBES} == dict.fromkeys(probe.PROBES, "ok")


# ---- each probe can fail: the system call it rests on is broken in turn


def test_a_lock_that_does_not_exclude(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: None)
    assert levels(probe.examine(str(tmp_path)))["lock"] == "error"


def test_a_lock_that_outlives_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, how: int) -> None:
        raise BlockingIOError

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(probe, "_time_until", lambda fact, limit: None if not fact() else 0.0)
    assert levels(probe.examine(str(tmp_path)))["lock"] == "error"


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: str, target: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    assert levels(probe.examine(str(tmp_path)))["link"] == "error"


def test_links_that_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda source, target: None)
    assert levels(probe.examine(str(tmp_path)))["link"] == "error"


def test_a_rename_that_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(os, "rename", shutil.copyfile)
    assert levels(probe.examine(str(tmp_path)))["rename"] == "error"


def test_no_fifos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "mkfifo", lambda path, mode: Path(path).touch())
    assert levels(probe.examine(str(tmp_path)))["fifo"] == "warning"


def test_a_slow_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SLOW_SYNC", 0.0)
    assert levels(probe.examine(str(tmp_path)))["fsync"] == "warning"


def test_modes_that_do_not_stick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.chmod
    monkeypatch.setattr(os, "chmod", lambda path, mode: real(path, 0o777))
    assert levels(probe.examine(str(tmp_path)))["permissions"] == "warning"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "FREE_BYTES", 1 << 62)
    assert levels(probe.examine(str(tmp_path)))["space"] == "warning"


def test_a_clock_that_was_never_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        probe, "clock", SimpleNamespace(SYSTEM=SimpleNamespace(now=lambda: 3600.0), aware=probe.clock.aware)
    )
    assert [check.level for check in probe._clock(str(tmp_path))] == ["error"]


def test_a_file_system_with_a_clock_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = SimpleNamespace(now=lambda: probe.YEAR_2024 + 60.0)
    monkeypatch.setattr(probe, "clock", SimpleNamespace(SYSTEM=ahead, aware=probe.clock.aware))
    assert [check.level for check in probe._clock(str(tmp_path))] == ["warning"]


def test_a_store_that_others_can_read(run: Run, store: str) -> None:
    run("put", "q", "1")
    os.chmod(store, 0o755)
    checks = {check["name"]: check for check in run("doctor", "--json").json["checks"]}
    assert checks["mode"]["level"] == "warning"
    assert checks["mode"]["advice"] == f"chmod 700 {store}"


def test_a_store_of_another_version(run: Run, store: str) -> None:
    run("put", "q", "1")
    Path(store, "FORMAT").write_text("eventq 99\n")
    assert levels(probe.examine(store))["store"] == "error"
    assert run("doctor").code == 1


@pytest.mark.parametrize(
    ("kind", "level", "words"),
    [
        ("ext4", "ok", "ext4"),
        ("nfs4", "warning", "network"),
        ("cifs", "warning", "network"),
        ("fuse.sshfs", "warning", "network"),
        ("tmpfs", "warning", "reboot"),
        ("overlay", "warning", "container"),
        ("fuse.mergerfs", "warning", "a program"),
    ],
)
def test_kinds_of_file_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, level: str, words: str
) -> None:
    mounts = tmp_path / "mounts"
    place = tmp_path / "my disk"
    place.mkdir()
    escaped = str(place).replace(" ", "\\040")
    mounts.write_text(f"/dev/a / ext3 rw 0 0\nx {escaped} {kind} rw 0 0\ny {escaped}2 nfs rw 0 0\nodd\n")
    assert probe.file_system(str(place / "store"), str(mounts)) == (kind, str(place))
    assert probe.file_system(str(tmp_path), str(mounts)) == ("ext3", "/")
    real = probe.file_system
    monkeypatch.setattr(probe, "file_system", lambda folder: real(folder, str(mounts)))
    check = next(iter(probe._file_system(str(place))))
    assert check.level == level
    assert words in check.detail


def test_a_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe.file_system(str(tmp_path), str(tmp_path / "missing")) is None
    monkeypatch.setattr(probe, "file_system", lambda folder: None)
    assert levels(list(probe._file_system("/var")))["file system"] == "warning"


# ---- fsck: the check itself has tests of its own


def with_findings(monkeypatch: pytest.MonkeyPatch, *findings: SimpleNamespace) -> list[str]:
    asked: list[str] = []
    module = ModuleType("eventq.storage.file.fsck")

    def check(path: str) -> list[SimpleNamespace]:
        asked.append(path)
        return list(findings)

    module.check = check  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return asked


def test_fsck_reports_errors(run: Run, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run("put", "q", "1")
    error = SimpleNamespace(path="queues/q/ready/0/x\x1b[2J", problem="torn", severity="error")
    note = SimpleNamespace(path="workers/1", problem="dead", severity="note")
    asked = with_findings(monkeypatch, error, note)
    done = run("fsck")
    assert done.code == 1
    assert asked == [store]
    assert done.lines == ["error  queues/q/ready/0/x\\x1b[2J: torn", "note   workers/1: dead", "1 errors, 1 notes"]
    document = run("fsck", "--json").json
    assert document["errors"] == 1
    assert document["findings"][1] == {"severity": "note", "path": "workers/1", "problem": "dead"}


def test_notes_alone_are_no_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("put", "q", "1")
    with_findings(monkeypatch, SimpleNamespace(path="workers/1", problem="dead", severity="note"))
    assert run("fsck").code == 0
    with_findings(monkeypatch)
    assert run("fsck").out == "every file is as it should be\n"


def test_fsck_of_a_real_store(run: Run) -> None:
    run("put", "q", "1")
    done = run("fsck", "--json")
    assert (done.code, done.json["errors"]) == (0, 0)
