"""Foreign files: whatever a shell publishes is delivered, or set aside; no byte of it vanishes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventq.model import Completed, PutOptions
from eventq.storage.file import FileStorage

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[FileStorage]:
    with FileStorage(tmp_path / "store", sync=False) as storage:
        yield storage


def publish(storage: FileStorage, name: str, data: bytes, priority: int = 0) -> Path:
    folder = Path(storage.queue_paths("q").ready_at(priority))
    folder.mkdir(exist_ok=True)
    (folder / ".draft").write_bytes(data)
    (folder / ".draft").rename(folder / name)
    storage.claim("q", 0)
    return folder / name


def drain(storage: FileStorage) -> list[bytes]:
    payloads = []
    storage._feed("q").forget_listing()
    while claimed := storage.claim("q"):
        payloads.append(claimed[0].payload)
        storage.settle(claimed[0], Completed())
    return payloads


def aside(storage: FileStorage) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(storage.root, "corrupt").iterdir())]


@pytest.mark.parametrize(
    ("data", "payloads"),
    [
        (b'{"n":1}\n', [b'{"n":1}']),
        (b'{"n":1}', [b'{"n":1}']),
        (b"1\n2\n3", [b"1", b"2", b"3"]),
        (b"\n\n1\r\n\n2\n\n", [b"1", b"2"]),
        (b'{\n  "n": 1.50,\n  "big": 12345678901234567890123\n}\n', [b'{"n":1.50,"big":12345678901234567890123}']),
        (b"null\n", [b"null"]),
        (b'"\xc3\xa4"', [b'"\xc3\xa4"']),
    ],
)
def test_json_is_adopted(storage: FileStorage, data: bytes, payloads: list[bytes]) -> None:
    publish(storage, "from-a-shell", data)
    assert drain(storage) == payloads
    assert aside(storage) == []


@pytest.mark.parametrize("data", [b"hello\n", b"\x80\x81", b"{'n': 1}\n", b'{"n":', b"[" * 100_000])
def test_what_is_no_json_is_set_aside(storage: FileStorage, data: bytes) -> None:
    publish(storage, "from-a-shell", b"1\n" + data + b"\n2\n")
    assert drain(storage) == [b"1", b"2"]
    assert b"".join(aside(storage)).strip() == data.strip()


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=20).filter(lambda raw: b"\n" not in raw and bool(raw.strip())), max_size=6))
def test_every_line_is_delivered_or_set_aside(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder, FileStorage(f"{folder}/store", sync=False) as storage:
        publish(storage, "f", b"\n".join(lines))
        delivered = drain(storage)
        kept = [raw for data in aside(storage) for raw in data.split(b"\n") if raw]
        good = [raw for raw in lines if is_json(raw)]
        assert [msgspec.json.decode(payload) for payload in delivered] == [msgspec.json.decode(raw) for raw in good]
        assert len(delivered) + len(kept) >= len(lines) or is_json(b"\n".join(lines))


def is_json(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw)
    except msgspec.MsgspecError:
        return False
    return True


NAMES = [
    "a~b~c", "q~0~x", "x=y", "with space", "ünïcode", "x" * 200, "line\nbreak", "-rf", "key~q~0~x", "a+", "*",
    "\udcff\udcfe",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_will_do(storage: FileStorage, name: str) -> None:
    publish(storage, name, b'"x"')
    assert drain(storage) == [b'"x"']
    assert aside(storage) == []
    assert os.listdir(storage.queue_paths("q").ready_at(0)) == []


def test_dot_names_are_left_alone(storage: FileStorage) -> None:
    path = publish(storage, "done", b"1").with_name(".not-yet")
    path.write_bytes(b'{"n":')
    assert drain(storage) == [b"1"]
    assert path.read_bytes() == b'{"n":'


@pytest.mark.parametrize("kind", ["empty", "folder", "link", "fifo"])
def test_what_is_no_file_with_something_in_it_is_set_aside(storage: FileStorage, tmp_path: Path, kind: str) -> None:
    storage.put("q", [b"1"], PutOptions())
    path = Path(storage.queue_paths("q").ready_at(0), "odd")
    secret = tmp_path / "secret"
    secret.write_bytes(b'"secret"')
    {
        "empty": path.touch,
        "folder": path.mkdir,
        "link": lambda: path.symlink_to(secret),
        "fifo": lambda: os.mkfifo(path),
    }[kind]()  # type: ignore[operator]
    assert drain(storage) == [b"1"]
    assert not path.exists()
    assert len(os.listdir(f"{storage.root}/corrupt")) == 1
    assert secret.read_bytes() == b'"secret"'


def test_a_foreign_file_has_the_priority_of_its_folder(storage: FileStorage) -> None:
    publish(storage, "low", b'"low"', -5)
    publish(storage, "high", b'"high"', 7)
    storage._feed("q").forget_listing()
    (claimed,) = storage.claim("q")
    assert (claimed.payload, claimed.priority) == (b'"high"', 7)


def test_a_foreign_file_that_looks_like_ours_is_set_aside_not_lost(storage: FileStorage) -> None:
    """Its name promises lines with checksums; it holds none."""
    publish(storage, "0" * 38, b'{"n":1}\n')
    assert drain(storage) == []
    assert aside(storage) == [b'{"n":1}\n']
