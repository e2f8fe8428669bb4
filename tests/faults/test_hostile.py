"""Whatever lies in a store: torn, zeroed, foreign, oversized, of the wrong kind or with a wild name. It never stops a
worker, is never delivered torn, never condemns what is good beside it, and is set aside and named in the log."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from eventq.errors import ConfigError
from eventq.model import FINAL_STATES, Cancel, Completed, Filter, PutOptions, Requeue, State
from eventq.storage.file import FileStorage
from eventq.testing import FakeClock
from faults.check import drain

WILD_NAMES = [
    b"\xff\xfe", b"..x", b"-", b"~", b"a" * 250, b"new\nline", b"q~0~", b"~~~", b"%s%n", b"0" * 38 + b"++",
    b"0" * 38 + b".00000.00000", b"f" * 38, b"zz" * 19, b"\xe2\x80\xae", b"`rm -rf`", b"1e3", b"Ready",
]  # fmt: skip


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[FileStorage]:
    with FileStorage(tmp_path / "store", clock=clock) as store:
        store.configure("q", {})
        yield store


@pytest.fixture
def root(store: FileStorage) -> Path:
    return Path(store.root)


def put(store: FileStorage, *payloads: str) -> list[str]:
    return store.put("q", [msgspec.json.encode(payload) for payload in payloads], PutOptions())


def event_file(root: Path) -> Path:
    (path,) = (root / "queues/q/ready/0").iterdir()
    return path


def look_at_everything(store: FileStorage) -> None:
    """Every way of reading, none of which may fail."""
    for queue in store.queues():
        store.stats(queue)
        store.settings(queue)
        for state in State:
            for record in store.scan(queue, state, Filter()).records:
                store.get(record.id)
        store.prune(queue)
    store.workers()
    store.get(f"{'0' * 38}.00000")


def outlive(store: FileStorage, clock: FakeClock, good: list[str]) -> list[str]:
    """Look, drain, look again, as this worker and as another; what was delivered beyond the good ones."""
    look_at_everything(store)
    delivered, _ = drain(store, clock)
    look_at_everything(store)
    with FileStorage(store.root, clock=clock) as other:
        delivered += drain(other, clock)[0]
        other.put("q", [b'"still works"'], PutOptions())
        other.put_key("q", b'"still works with a key"', PutOptions(key="key"))
        delivered += drain(other, clock)[0]
    for payload in (*good, "still works", "still works with a key"):
        assert delivered.count(payload) == 1, f"{payload!r} came {delivered.count(payload)} times"
        delivered.remove(payload)
    return delivered


def set_aside(root: Path) -> int:
    return len(os.listdir(root / "corrupt"))


# ---------------------------------------------------------------------------- event files


def test_a_file_cut_anywhere_delivers_whole_events_only(store: FileStorage, root: Path, clock: FakeClock) -> None:
    """At every byte; what is before the cut is delivered, what is behind it never existed."""
    put(store, "one", "two", "three")
    whole = event_file(root).read_bytes()
    name = event_file(root).name
    event_file(root).unlink()
    for cut in range(len(whole)):
        path = root / "queues/q/ready/0" / name
        path.write_bytes(whole[:cut])
        delivered, _ = drain(store, clock)
        assert delivered == ["one", "two", "three"][: whole[:cut].count(b"\n")]


@pytest.mark.parametrize("blank", [b"\0", b" ", b"x", b"\n"])
def test_a_line_that_was_overwritten_anywhere_is_not_delivered(
    store: FileStorage, root: Path, clock: FakeClock, blank: bytes
) -> None:
    put(store, "one", "two", "three")
    whole = event_file(root).read_bytes()
    name = event_file(root).name
    event_file(root).unlink()
    first, second = whole.index(b"\n") + 1, whole.index(b"\n", whole.index(b"\n") + 1)
    for at in range(first, second, 7):
        if whole[at : at + 1] == blank:
            continue
        (root / "queues/q/ready/0" / name).write_bytes(whole[:at] + blank + whole[at + 1 :])
        delivered, _ = drain(store, clock)
        assert delivered == ["one", "three"]
    assert set_aside(root) > 0


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 5000, b" " * 100, b"\n\n\n", b"no json\n", b"{\n", b"\xff\xff\n", b'{"id": 1}\n',
     b"[" * 100_000 + b"\n",
     b'{"id":"' + b"0" * 38 + b'.*","is":"moved","of":[0],"to":"../../etc/passwd","crc":"00000000"}\n'],
)  # fmt: skip
@pytest.mark.parametrize("name", ["0" * 38, "0" * 38 + "+", "0" * 38 + ".00000", "foreign"])
def test_a_file_of_nonsense_is_set_aside(
    store: FileStorage, root: Path, clock: FakeClock, content: bytes, name: str
) -> None:
    (root / "queues/q/ready/0" / name).write_bytes(content)
    put(store, "good")
    outlive(store, clock, ["good"])
    assert event_files(root) == []
    if content.strip(b"\0 \n"):
        assert set_aside(root) == 1 or name == "foreign"


def event_files(root: Path) -> list[Path]:
    return [path for path in (root / "queues/q/ready").rglob("*") if path.is_file()]


def test_bad_lines_are_named_in_the_log(
    store: FileStorage, root: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "one", "two")
    path = event_file(root)
    path.write_bytes(path.read_bytes().replace(b'"two"', b'"tvo"'))
    with caplog.at_level(logging.ERROR, "eventq.storage"):
        assert drain(store, clock)[0] == ["one"]
    assert path.name in caplog.text
    (aside,) = (root / "corrupt").iterdir()
    assert b'"tvo"' in aside.read_bytes()


def test_good_lines_of_foreign_files_are_delivered_and_bad_ones_kept(
    store: FileStorage, root: Path, clock: FakeClock
) -> None:
    (root / "queues/q/ready/0/import").write_bytes(b'"one"\nnonsense\n"two"\n\xff\xfe\n"three"')
    assert outlive(store, clock, ["one", "two", "three"]) == []
    (aside,) = (root / "corrupt").iterdir()
    assert aside.read_bytes().split(b"\n")[:2] == [b"nonsense", b"\xff\xfe"]


def _link(path: Path) -> None:
    target = path.parents[4] / "target"
    target.write_bytes(b'"secret"\n')
    path.symlink_to(target)


def _full_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("x")


def _secret(path: Path) -> None:
    path.write_bytes(b'"x"')
    path.chmod(0)


def _hard_link(path: Path) -> None:
    target = path.parents[4] / "target"
    target.write_bytes(b'"hard"\n')
    path.hardlink_to(target)


def _socket(path: Path) -> None:
    place = os.getcwd()
    os.chdir(path.parent)  # a socket's name is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(place)


def _oversized(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 << 30)


KINDS: dict[str, Callable[[Path], None]] = {
    "link": _link,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "hard link": _hard_link,
    "fifo": os.mkfifo,
    "folder": lambda path: path.mkdir(),
    "full folder": _full_folder,
    "socket": _socket,
    "oversized": _oversized,
    "secret": _secret,
}
PLACES = {
    "ready": "queues/q/ready/0/" + "1" * 38,
    "foreign": "queues/q/ready/0/foreign",
    "delayed": f"queues/q/delayed/{0:07x}/{1:016x}~0~" + "1" * 38,
    "priority": "queues/q/ready/7",
    "bucket": f"queues/q/delayed/{1:07x}",
    "queue": "queues/other",
    "settings": "queues/r/settings.json",
    "completed": f"queues/q/completed/{0x1111111:07x}/" + "1" * 38,
    "dead": f"queues/q/dead/{0x1111111:07x}/" + "1" * 38 + ".00000",
    "key": "queues/q/keys/" + "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683",
    "room": "workers/" + "1" * 16,
    "hidden room": "workers/." + "1" * 16,
    "free": "free/" + "1" * 17,
    "name": "names/" + "1" * 64,
}


COMBINATIONS = [
    pytest.param(kind, place, marks=() if (row + column) % 5 == 0 and kind != "oversized" else pytest.mark.exhaustive)
    for row, kind in enumerate(KINDS)
    for column, place in enumerate(PLACES)
]
"""Each kind in each place; every fifth in the quick set."""


@pytest.mark.parametrize(("kind", "place"), COMBINATIONS)
def test_the_wrong_kind_of_thing_in_the_wrong_place(
    store: FileStorage, root: Path, clock: FakeClock, kind: str, place: str
) -> None:
    path = root / PLACES[place]
    path.parent.mkdir(parents=True, exist_ok=True)
    KINDS[kind](path)
    put(store, "good")
    store.put("q", [b'"later"'], PutOptions(due=clock.now() + 5))
    clock.advance(0.25)
    store.recover()
    extra = outlive(store, clock, ["good", "later"])
    assert "secret" not in extra, "a symbolic link was followed"
    if kind == "link":
        assert (root.parent / "target").exists() or (root / "target").exists() or place != "ready"


# ---------------------------------------------------------------------------- names


FOLDERS = ["queues", "queues/q/ready", "queues/q/ready/0", "queues/q/delayed", "queues/q/keys", "queues/q/completed",
           "queues/q/dead", "queues/q/notes", "workers", "names", "slots", "free", "corrupt"]  # fmt: skip


@pytest.mark.parametrize("folders", [False, True])
@pytest.mark.parametrize("place", FOLDERS)
def test_wild_names(store: FileStorage, root: Path, clock: FakeClock, place: str, folders: bool) -> None:
    """In every folder, as files and as folders with one more of their kind inside."""
    folder = os.fsencode(root / place)
    os.makedirs(folder, exist_ok=True)
    for name in WILD_NAMES:
        path = folder + b"/" + name
        if folders:
            os.makedirs(path + b"/" + name[:100], exist_ok=True)
        else:
            with open(path, "wb") as file:
                file.write(b'"foreign"\n')
    put(store, "good")
    clock.advance(0.25)
    store.recover()
    extra = outlive(store, clock, ["good"])
    assert set(extra) <= {"foreign"}


@pytest.mark.parametrize("inner", ["claims", "drafts", "requests", ""])
def test_wild_names_in_the_room_of_a_dead_worker(store: FileStorage, root: Path, clock: FakeClock, inner: str) -> None:
    """What can be brought back is; nothing stops the burial of others."""
    for worker in ("1" * 16, "2" * 16):
        room = root / "workers" / worker
        for name in ("claims", "drafts", "requests"):
            (room / name).mkdir(parents=True)
        (room / "lock").touch()
    for name in WILD_NAMES:
        with open(os.fsencode(root / "workers" / ("1" * 16) / inner) + b"/" + name, "wb") as file:
            file.write(b"nonsense\n")
    name = put(store, "good")[0][:38]
    event_file(root).rename(root / "workers" / ("2" * 16) / "claims" / f"q~0~{name}")
    for _ in range(3):
        clock.advance(0.25)
        store.recover()
    assert outlive(store, clock, ["good"]) == []
    assert not (root / "workers" / ("2" * 16)).exists()


def test_names_of_a_dead_room_that_lead_out_of_the_store_are_not_followed(
    store: FileStorage, root: Path, clock: FakeClock
) -> None:
    """A `moved` record, and the names of drafts, are data that somebody else may have written."""
    from eventq.storage.file.line import moved_record

    room = root / "workers" / ("1" * 16)
    for name in ("claims", "drafts"):
        (room / name).mkdir(parents=True)
    (room / "lock").touch()
    stem = "1" * 38
    (room / "claims" / f"q~0~{stem}").write_bytes(moved_record(stem, [0], "../outside/loot", 0.0))
    (room / "drafts/loot").write_text("loot")
    (root.parent / "outside").mkdir()
    for _ in range(3):
        clock.advance(0.25)
        store.recover()
    assert os.listdir(root.parent / "outside") == []
    outlive(store, clock, [])


# ---------------------------------------------------------------------------- small files


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"max_attempts": "x"}', b'{"unknown": 1}', b"\xff", b"\0" * 100]
)
def test_settings_that_cannot_be_read_are_the_defaults(
    store: FileStorage, root: Path, clock: FakeClock, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "queues/q/settings.json").write_bytes(content)
    put(store, "good")
    outlive(store, clock, ["good"])
    if content:
        assert "settings.json" in caplog.text
    assert store.configure("q", {"max_attempts": 3}).max_attempts == 3
    assert store.settings("q").max_attempts == 3


@pytest.mark.parametrize("content", [b"", b"eventq 2\n", b"\0" * 8, b"\xff\xfe", b"sync true"])
def test_a_format_of_somebody_else_is_refused_politely(store: FileStorage, root: Path, content: bytes) -> None:
    (root / "FORMAT").write_bytes(content)
    with pytest.raises(ConfigError, match="eventq 1"):
        FileStorage(root)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"key": "other", "id": "x"}', b'{"key":"key","id":"../../x"}', b"\0" * 50]
)
def test_a_marker_that_cannot_be_read_holds_nothing(
    store: FileStorage, root: Path, clock: FakeClock, content: bytes
) -> None:
    store.put_key("q", b'"old"', PutOptions(key="key"))
    assert drain(store, clock)[0] == ["old"]
    store.put_key("q", b'"marked"', PutOptions(key="key"))
    (marker,) = (root / "queues/q/keys").iterdir()
    marker.write_bytes(content)
    assert store.put_key("q", b'"good"', PutOptions(key="key"))[1]
    assert outlive(store, clock, ["good", "marked"]) == []


@pytest.mark.parametrize("content", [b"", b"nonsense", b'{"id": "x", "edit": "Cancel"}', b"\0" * 100])
def test_a_request_that_cannot_be_read_is_dropped(
    store: FileStorage, root: Path, clock: FakeClock, content: bytes
) -> None:
    room = root / "workers" / store.worker / "requests"
    (room / "x").write_bytes(content)
    clock.advance(0.25)
    store.recover()
    assert os.listdir(room) == []


def test_records_of_a_final_state_that_were_torn_stop_no_listing(
    store: FileStorage, root: Path, clock: FakeClock
) -> None:
    ids = put(store, "one", "two")
    for claimed in store.claim("q", 2):
        store.settle(claimed, Completed(b"1"))
    (path,) = (root / "queues/q/completed").rglob("?" * 38)
    path.write_bytes(path.read_bytes()[:-30])
    look_at_everything(store)
    record = store.get(ids[0])
    assert record is not None
    assert (record.state, record.value) == (State.COMPLETED, b"1")
    for edit in (Requeue(), Cancel()):
        store.edit("q", [ids[0]], edit)
    assert any(store.scan("q", state, Filter()).records for state in FINAL_STATES)
