"""The check of a store: silent about what real operations leave, loud about what they never do."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from eventq.ids import stem_of
from eventq.model import Completed, Failure, PutOptions, Rejected, Requeue, Retried, State
from eventq.storage.file import FileStorage, fsck, line
from eventq.storage.file.layout import bucket_of, digest, due_digits
from eventq.storage.file.line import RecordLine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventq.testing import FakeClock

PLAIN = PutOptions()
STEM = "18ea02eba58bb400dbfc6170b69d8553000001"
BOOM = Failure("ValueError", "boom")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def storage(root: Path, clock: FakeClock) -> Iterator[FileStorage]:
    with FileStorage(root, clock=clock) as storage:
        yield storage


def look(root: Path, clock: FakeClock) -> fsck.Report:
    return fsck.examine(str(root), clock)


def errors(root: Path) -> list[str]:
    return [f"{found.path}: {found.problem}" for found in fsck.check(str(root)) if found.severity == "error"]


def notes(root: Path) -> list[str]:
    return [f"{found.path}: {found.problem}" for found in fsck.check(str(root)) if found.severity == "note"]


def only(texts: list[str], path: str, words: str) -> None:
    """Exactly one finding, at this path, with these words."""
    assert len(texts) == 1, texts
    assert texts[0].startswith(path + ":"), texts
    assert words in texts[0], texts


def put(storage: FileStorage, *payloads: bytes, queue: str = "q", **options: object) -> list[str]:
    return storage.put(queue, list(payloads), msgspec.structs.replace(PLAIN, **options))


def write(path: Path, data: bytes = b"", mode: int = 0o600) -> Path:
    """A file (and its folders) as eventq would make it."""
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(0o700)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def event_file(stem: str = STEM, *payloads: bytes) -> bytes:
    return line.event_lines(stem, payloads or (b"1",), "json", b"")


def record(stem: str, index: int, step: str, **fields: object) -> bytes:
    return line.record_line(RecordLine(f"{stem}.{index:05x}", step, **fields))  # type: ignore[arg-type]


# ---------------------------------------------------------------- what is as it should be


def test_a_new_store_is_in_order(storage: FileStorage, root: Path) -> None:
    assert fsck.check(str(root)) == []


def test_a_store_at_work_is_in_order_after_each_step(storage: FileStorage, root: Path, clock: FakeClock) -> None:
    put(storage, b"1", b"2", b"3", b"4", b"5")
    put(storage, b"6", priority=-7)
    put(storage, b"7", due=clock.now() + 50)
    storage.put_key("q", b"8", PutOptions(key="k"))
    storage.put_key("q", b"9", PutOptions(key="hour", unique=3600.0))
    storage.put("Ünïcode_Queue", [b"\x81"], PutOptions(codec="msgpack"))
    storage.configure("q", {"max_attempts": 2})
    storage.take_name("a/b", b"{}")
    slot = storage.take_slot("lock")
    assert slot is not None
    assert fsck.check(str(root)) == []
    claims = storage.claim("q", 4)
    assert fsck.check(str(root)) == []
    outcomes = (Completed(), Completed(b"42"), Retried(9.0, BOOM), Rejected(BOOM))
    for claimed, outcome in zip(claims, outcomes, strict=True):
        storage.settle(claimed, outcome)
        assert fsck.check(str(root)) == [], outcome
    storage.edit("q", [claims[3].id], Requeue())
    storage.give_back("q")
    assert fsck.check(str(root)) == []


def test_the_counts_are_those_of_the_store(storage: FileStorage, root: Path, clock: FakeClock) -> None:
    put(storage, b"1", b"2", b"3")
    put(storage, b"4", due=clock.now() + 50)
    claimed, other = storage.claim("q", 2)
    storage.settle(claimed, Rejected(BOOM))
    counts = look(root, clock).counts
    assert (counts["queues"], counts["rooms"]) == (1, 1)
    assert [counts.get(state.value, 0) for state in State] == [1, 1, 1, 0, 1, 0, 0]
    storage.settle(other, Completed())


def test_checking_changes_nothing(storage: FileStorage, root: Path) -> None:
    put(storage, b"1", b"2")
    storage.claim("q")
    write(root / "queues/q/ready/0/foreign.json", b"{}")

    def everything() -> dict[str, tuple[int, int, bytes]]:
        files = [(path, path.lstat()) for path in sorted(root.rglob("*"))]
        return {
            str(path): (status.st_mode, status.st_ino, path.read_bytes() if path.is_file() else b"")
            for path, status in files
        }

    before = everything()
    assert fsck.check(str(root))
    assert everything() == before


def test_a_store_in_motion_shows_no_error(root: Path) -> None:
    """Two workers put, claim, retry and settle while it is checked."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with FileStorage(root, sync=False) as storage:
                while not stop.is_set():
                    put(storage, b"1", b"2", b"3")
                    for number, claimed in enumerate(storage.claim("q", 3)):
                        storage.settle(claimed, (Completed(), Retried(0.0, BOOM), Completed(b"7"))[number])
        except BaseException as error:
            failures.append(error)
            raise

    FileStorage(root, sync=False).close()
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        found = [errors(root) for _ in range(5)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert (found, failures) == ([[]] * 5, [])
    assert errors(root) == []


# ---------------------------------------------------------------- what is no store


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    only(errors(tmp_path), "FORMAT", "no store")


def test_another_format(storage: FileStorage, root: Path) -> None:
    (root / "FORMAT").write_text("eventq 9\n")
    only(errors(root), "FORMAT", "eventq 9")


# ---------------------------------------------------------------- names, kinds, permissions


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("strange", "no part of a store"),
        ("queues/UPPER", "no folder of a queue"),
        ("queues/a_b", "no folder of a queue"),
        ("queues/q/strange", "no part of a queue"),
        ("queues/q/ready/high", "no folder of a priority"),
        ("queues/q/ready/007", "no folder of a priority"),
        ("queues/q/delayed/today", "no bucket"),
        ("queues/q/dead/today", "no bucket"),
        ("workers/me", "no room of a worker"),
        ("free/old", "no name of a recycled file"),
        ("names/mine", "no record of a name"),
        ("slots/mine", "no lock of a slot"),
    ],
)
def test_a_name_that_cannot_be(storage: FileStorage, root: Path, path: str, words: str) -> None:
    put(storage, b"1")
    write(root / path)
    only(errors(root), path, words)


def test_names_with_a_dot_are_other_programs(storage: FileStorage, root: Path) -> None:
    put(storage, b"1")
    for folder in ("", "queues/q", "queues/q/ready", "workers", "free", "queues/q/ready/0"):
        write(root / folder / ".DS_Store")
    assert errors(root) == []
    assert len(notes(root)) == 6


def test_a_priority_out_of_range(storage: FileStorage, root: Path) -> None:
    put(storage, b"1")
    (root / "queues/q/ready/101").mkdir(0o700)
    only(errors(root), "queues/q/ready/101", "-100 to 100")


def test_what_everybody_can_change(storage: FileStorage, root: Path) -> None:
    put(storage, b"1")
    (root / "queues/q/ready").chmod(0o777)
    only(errors(root), "queues/q/ready", "changed by everybody")


def test_what_everybody_can_read_is_a_note(storage: FileStorage, root: Path) -> None:
    (id,) = put(storage, b"1")
    os.chmod(root / f"queues/q/ready/0/{stem_of(id)}", 0o644)
    assert errors(root) == []
    only(notes(root), f"queues/q/ready/0/{stem_of(id)}", "mode 0644")


@pytest.mark.parametrize("place", ["queues/q/ready/0", "free", "corrupt/..", "queues"])
def test_a_symbolic_link(storage: FileStorage, root: Path, tmp_path: Path, place: str) -> None:
    put(storage, b"1")
    target = write(tmp_path / "elsewhere")
    name = {"queues/q/ready/0": STEM, "free": STEM[:20], "corrupt/..": "ballast", "queues": "other"}[place]
    path = root / place / name
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    only(errors(root), f"{place}/{name}".removeprefix("corrupt/../"), "symbolic link")


def test_a_fifo_among_the_events(storage: FileStorage, root: Path) -> None:
    put(storage, b"1")
    os.mkfifo(root / "queues/q/ready/0" / STEM, 0o600)
    only(errors(root), f"queues/q/ready/0/{STEM}", "a FIFO")


def test_a_wake_that_is_a_file(storage: FileStorage, root: Path) -> None:
    put(storage, b"1")
    (root / "queues/q/wake").unlink()
    write(root / "queues/q/wake")
    only(errors(root), "queues/q/wake", "a FIFO belongs")


def test_a_second_name_of_an_event_file(storage: FileStorage, root: Path, tmp_path: Path) -> None:
    (id,) = put(storage, b"1")
    os.link(root / f"queues/q/ready/0/{stem_of(id)}", tmp_path / "copy")
    only(errors(root), f"queues/q/ready/0/{stem_of(id)}", "2 names")


# ---------------------------------------------------------------- event files


def test_an_event_open_in_two_files(storage: FileStorage, root: Path) -> None:
    (id,) = put(storage, b"1")
    stem = stem_of(id)
    folder = root / "queues/q/ready/0"
    write(folder / f"{stem}+", (folder / stem).read_bytes())
    only(errors(root), f"queues/q/ready/0/{stem}+", f"event {id} is also open in")


def test_an_event_that_was_moved_is_open_once(storage: FileStorage, root: Path) -> None:
    """The same two files, with the record that explains it."""
    data = event_file(STEM, b"1", b"2")
    moved = line.moved_record(STEM, [0], f"queues/q/ready/0/{STEM}.00000", 1.0)
    put(storage, b"1")
    folder = root / "queues/q/ready/0"
    write(folder / f"{STEM}+", data + moved)
    write(folder / f"{STEM}.00000", event_file(STEM, b"1"))
    assert fsck.check(str(root)) == []


def test_an_event_both_open_and_final(storage: FileStorage, root: Path) -> None:
    (id,) = put(storage, b"1")
    settled = record(stem_of(id), 0, "settled", outcome="dead")
    path = f"queues/q/dead/{bucket_of(id)}/{id}"
    write(root / path, event_file(stem_of(id)) + settled)
    only(errors(root), path, "is open in")


def test_an_event_that_ended_twice(storage: FileStorage, root: Path) -> None:
    put(storage, b"1")
    id = f"{STEM}.00000"
    for state in ("dead", "expired"):
        data = event_file(STEM) + record(STEM, 0, "settled", outcome=state)
        write(root / f"queues/q/{state}/{bucket_of(id)}/{id}", data)
    only(errors(root), f"queues/q/expired/{bucket_of(id)}/{id}", "has ended in")


def test_an_end_that_its_folder_denies(storage: FileStorage, root: Path) -> None:
    put(storage, b"1")
    path = f"queues/q/dead/{bucket_of(STEM)}/{STEM}.00000"
    write(root / path, event_file(STEM) + record(STEM, 0, "settled", outcome="expired"))
    only(errors(root), path, "'expired'")


def test_an_end_that_was_cut_off_is_a_note(storage: FileStorage, root: Path) -> None:
    """A power cut may take the last line; the folder is the truth."""
    put(storage, b"1")
    path = f"queues/q/dead/{bucket_of(STEM)}/{STEM}.00000"
    write(root / path, event_file(STEM))
    assert errors(root) == []
    only(notes(root), path, "not recorded")


def test_a_torn_tail_is_a_note(storage: FileStorage, root: Path) -> None:
    (id,) = put(storage, b"1")
    path = root / f"queues/q/ready/0/{stem_of(id)}"
    path.write_bytes(path.read_bytes() + event_file(stem_of(id), b"1")[:30])
    assert errors(root) == []
    only(notes(root), f"queues/q/ready/0/{stem_of(id)}", "torn")


def test_a_damaged_line_beside_a_good_one_is_a_note(storage: FileStorage, root: Path) -> None:
    ids = put(storage, b'"first"', b'"second"')
    path = root / f"queues/q/ready/0/{stem_of(ids[0])}"
    path.write_bytes(path.read_bytes().replace(b"second", b"SECOND"))
    assert errors(root) == []
    only(notes(root), f"queues/q/ready/0/{stem_of(ids[0])}", "1 unreadable lines")


def test_an_event_file_without_an_event(storage: FileStorage, root: Path) -> None:
    """Drafts are synced before they get a name: in a durable store, somebody or the disk damaged it."""
    (id,) = put(storage, b'"only"')
    path = root / f"queues/q/ready/0/{stem_of(id)}"
    path.write_bytes(path.read_bytes().replace(b"only", b"ONLY"))
    only(errors(root), f"queues/q/ready/0/{stem_of(id)}", "no event that can be read")


def test_without_sync_an_empty_event_file_is_a_note(root: Path) -> None:
    with FileStorage(root, sync=False) as storage:
        put(storage, b"1")
    write(root / f"queues/q/ready/0/{STEM}")
    assert errors(root) == []
    only(notes(root), f"queues/q/ready/0/{STEM}", "no event that can be read")


def test_records_under_a_name_that_nobody_has_claimed(storage: FileStorage, root: Path) -> None:
    put(storage, b"1")
    write(root / f"queues/q/ready/0/{STEM}", event_file() + record(STEM, 0, "started", worker="w"))
    only(errors(root), f"queues/q/ready/0/{STEM}", "holds records")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (record(STEM, 0, "paused"), "unknown step: 'paused'"),
        (record(STEM, 0, "settled", outcome="lost"), "unknown outcome: 'lost'"),
        (line.moved_record(STEM, [0], "../../etc/passwd", 1.0), "move to nowhere"),
    ],
)
def test_records_that_say_nothing(storage: FileStorage, root: Path, lines: bytes, words: str) -> None:
    put(storage, b"1")
    write(root / f"queues/q/ready/0/{STEM}+", event_file(STEM, b"1", b"2") + lines)
    only(errors(root), f"queues/q/ready/0/{STEM}+", words)


def test_a_record_without_its_event(storage: FileStorage, root: Path) -> None:
    put(storage, b"1")
    write(root / f"queues/q/ready/0/{STEM}+", event_file() + record(STEM, 7, "started"))
    assert errors(root) == []
    only(notes(root), f"queues/q/ready/0/{STEM}+", "event 00007, which is not in the file")


def test_what_has_its_checksum_and_is_no_event(storage: FileStorage, root: Path) -> None:
    put(storage, b"1")
    odd = line.seal(line.head_of(STEM) + b'00000","payload":1,"headers":7')
    write(root / f"queues/q/ready/0/{STEM}", odd)
    only(errors(root), f"queues/q/ready/0/{STEM}", "is no event")


@pytest.mark.parametrize("folder", ["delayed", "dead", "completed", "notes"])
def test_the_wrong_bucket(storage: FileStorage, root: Path, clock: FakeClock, folder: str) -> None:
    put(storage, b"1")
    due = due_digits(clock.now() + 1000)
    name = {"delayed": f"{due}~0~{STEM}"}.get(folder, f"{STEM}.00000")
    end = b"" if folder == "delayed" else record(STEM, 0, "settled", outcome=folder, value=msgspec.Raw(b"1"))
    data = b"" if folder == "notes" else event_file() + end
    write(root / f"queues/q/{folder}/0000000/{name}", data)
    only(errors(root), f"queues/q/{folder}/0000000/{name}", "wrong bucket")


def test_a_strange_file_among_the_dead(storage: FileStorage, root: Path) -> None:
    put(storage, b"1")
    path = f"queues/q/dead/{bucket_of(STEM)}/{STEM}"
    write(root / path, event_file())
    only(errors(root), path, "no event file")


def test_foreign_files_are_notes(storage: FileStorage, root: Path) -> None:
    put(storage, b"1")
    write(root / "queues/q/ready/0/from-a-shell.json", b'{"n":1}', 0o644)
    assert errors(root) == []
    only(notes(root), "queues/q/ready/0/from-a-shell.json", "adopts it")


# ---------------------------------------------------------------- keys, notes, settings, names


def test_markers(storage: FileStorage, root: Path) -> None:
    storage.put_key("q", b"1", PutOptions(key="good"))
    folder = root / "queues/q/keys"
    write(folder / digest("gone"), msgspec.json.encode({"key": "gone", "id": f"{STEM}.00000"}))
    write(folder / digest("torn"), b'{"key":"to')
    write(folder / digest("hour"), msgspec.json.encode({"key": "hour", "id": f"{STEM}.00000", "until": 4e9}))
    assert errors(root) == []
    assert sorted(note.split(": ", 1)[1][:20] for note in notes(root)) == [
        "cannot be read (Inpu",
        "names an event that ",
    ]


def test_a_marker_under_anothers_name(storage: FileStorage, root: Path) -> None:
    id, _ = storage.put_key("q", b"1", PutOptions(key="mine"))
    path = f"queues/q/keys/{digest('yours')}"
    write(root / path, msgspec.json.encode({"key": "mine", "id": id}))
    only(errors(root), path, "another key")


def test_notes_of_an_event_that_is_gone(storage: FileStorage, root: Path) -> None:
    put(storage, b"1")
    (claimed,) = storage.claim("q")
    storage.note(claimed, "progress", b"1")
    assert fsck.check(str(root)) == []
    storage.settle(claimed, Completed())
    assert errors(root) == []
    only(notes(root), "queues/q/notes", "1 events that left no record")


def test_settings_that_cannot_be_read(storage: FileStorage, root: Path) -> None:
    storage.configure("q", {"keep": 5.0})
    assert fsck.check(str(root)) == []
    (root / "queues/q/settings.json").write_text('{"keep": "long"}')
    only(errors(root), "queues/q/settings.json", "defaults hold")


def test_a_name_that_cannot_be_read(storage: FileStorage, root: Path) -> None:
    storage.take_name("a", b"1")
    (root / f"names/{digest('a')}").write_text("{")
    only(errors(root), f"names/{digest('a')}", "remove it to free it")


# ---------------------------------------------------------------- rooms


def test_a_dead_room_is_a_note(storage: FileStorage, root: Path, clock: FakeClock) -> None:
    put(storage, b"1")
    dead = FileStorage(root, clock=clock)
    assert len(dead.claim("q")) == 1
    room = f"workers/{dead.worker}"
    dead.abandon()
    assert errors(root) == []
    only(notes(root), room, "its worker is dead: 1 claimed files come back")
    clock.advance(1.0)
    storage.recover()
    assert fsck.check(str(root)) == []


@pytest.fixture
def grave(storage: FileStorage, root: Path, clock: FakeClock) -> str:
    """The room of a dead worker, empty."""
    put(storage, b"1")
    dead = FileStorage(root, clock=clock)
    room = f"workers/{dead.worker}"
    dead.abandon()
    return room


def drafts(root: Path) -> list[str]:
    return [note for note in notes(root) if "/drafts/" in note]


def test_a_draft_without_reason_is_dropped(root: Path, grave: str) -> None:
    write(root / grave / "drafts" / STEM, event_file())
    only(drafts(root), f"{grave}/drafts/{STEM}", "will be dropped: nothing was promised")
    assert errors(root) == []


def test_a_draft_that_is_owed_is_published(root: Path, grave: str) -> None:
    moved = line.moved_record(STEM, [0], f"queues/q/ready/0/{STEM}.00000", 1.0)
    write(root / grave / f"claims/q~0~{STEM}", event_file(STEM, b"1", b"2") + moved)
    write(root / grave / f"drafts/{STEM}.00000", event_file())
    only(drafts(root), f"{grave}/drafts/{STEM}.00000", "will be published: its move is recorded")
    assert errors(root) == []


def test_a_move_that_was_done_leaves_no_trace(root: Path, grave: str) -> None:
    """Its target may have been claimed, settled and removed since: nothing can be said of it."""
    moved = line.moved_record(STEM, [0], f"queues/q/ready/0/{STEM}.00000", 1.0)
    write(root / grave / f"claims/q~0~{STEM}", event_file(STEM, b"1", b"2") + moved)
    assert errors(root) == []
    assert drafts(root) == []


@pytest.mark.parametrize("there", [True, False])
def test_a_draft_of_a_foreign_file(root: Path, grave: str, there: bool) -> None:
    if there:
        write(root / grave / "claims/q~0~f.json", b"1")
    write(root / grave / f"drafts/{STEM}=q~0~f.json", event_file())
    only(drafts(root), f"{grave}/drafts/{STEM}=q~0~f.json", "dropped" if there else "published")
    assert errors(root) == []


@pytest.mark.parametrize("marked", [True, False])
def test_a_keyed_draft(root: Path, grave: str, marked: bool) -> None:
    name = f"key~q~0~{0:016x}~{STEM}"
    write(root / grave / "drafts" / name, line.event_lines(STEM, [b"1"], "json", b'"key":"k",'))
    if marked:
        marker = msgspec.json.encode({"key": "k", "id": f"{STEM}.00000"})
        write(root / f"queues/q/keys/{digest('k')}", marker)
    only(drafts(root), f"{grave}/drafts/{name}", "published" if marked else "dropped")
    assert errors(root) == []


def test_the_fate_that_is_told_is_the_fate(storage: FileStorage, root: Path, grave: str, clock: FakeClock) -> None:
    moved = line.moved_record(STEM, [0], f"queues/q/ready/0/{STEM}.00000", 1.0)
    other = STEM[:-1] + "2"
    write(root / grave / f"claims/q~0~{STEM}", event_file(STEM, b'"moved"', b'"left"') + moved)
    write(root / grave / f"drafts/{STEM}.00000", event_file(STEM, b'"moved"'))
    write(root / grave / f"drafts/{other}", event_file(other, b'"dropped"'))
    assert len(drafts(root)) == 2
    clock.advance(1.0)
    storage.recover()
    assert fsck.check(str(root)) == []
    payloads = set()
    while claimed := storage.claim("q"):
        payloads.add(claimed[0].payload)
        storage.settle(claimed[0], Completed())
    assert payloads == {b"1", b'"moved"', b'"left"'}


def test_what_is_no_draft(root: Path, grave: str) -> None:
    write(root / grave / "drafts/letter.txt", b"Dear")
    only(errors(root), f"{grave}/drafts/letter.txt", "no draft")


def test_what_is_no_claimed_file(root: Path, grave: str) -> None:
    write(root / grave / "claims/letter.txt", b"Dear")
    only(errors(root), f"{grave}/claims/letter.txt", "no claimed file")


def test_rooms_half_made(storage: FileStorage, root: Path) -> None:
    assert storage.worker
    (root / "workers/.0123456789abcdef").mkdir(0o700)
    (root / "workers/0123456789abcdef").mkdir(0o700)
    assert errors(root) == []
    assert [note.split(":")[0] for note in notes(root)] == ["workers/.0123456789abcdef", "workers/0123456789abcdef"]


def test_a_room_without_lock_that_holds_something(storage: FileStorage, root: Path) -> None:
    assert storage.worker
    write(root / f"workers/0123456789abcdef/claims/q~0~{STEM}", event_file())
    only(errors(root), "workers/0123456789abcdef", "no lock, and holds something")


# ---------------------------------------------------------------- the rest


def test_free_is_judged_and_bounded(storage: FileStorage, root: Path) -> None:
    name = storage.worker + "1"
    with write(root / "free" / name).open("wb") as file:
        file.truncate((64 << 10) + 1)
    only(notes(root), f"free/{name}", "too large")
    for number in range(400):
        write(root / "free" / f"{storage.worker}{number:x}")
    assert errors(root) == []
    assert any("holds 400 recycled files" in note for note in notes(root))


def test_what_was_set_aside_is_a_note(storage: FileStorage, root: Path) -> None:
    write(root / "corrupt/anything", b"xx")
    assert errors(root) == []
    only(notes(root), "corrupt/anything", "was set aside (2 bytes)")


def test_a_given_up_ballast_is_a_note(storage: FileStorage, root: Path) -> None:
    (root / "ballast").unlink()
    assert errors(root) == []
    only(notes(root), "ballast", "full disk")


def test_a_half_dropped_queue_is_a_note(storage: FileStorage, root: Path) -> None:
    write(root / f"queues/.{STEM}/ready/0/{STEM}", event_file())
    assert errors(root) == []
    only(notes(root), f"queues/.{STEM}", "half removed")
