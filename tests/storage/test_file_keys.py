"""The markers of debounced puts: what stands in them, and what fsck says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from eventq.model import PutOptions
from eventq.storage.file import FileStorage, fsck
from eventq.storage.file.layout import digest
from eventq.testing import FakeClock

if TYPE_CHECKING:
    from pathlib import Path


def test_a_marker_tells_when_its_chain_began(tmp_path: Path) -> None:
    clock = FakeClock()
    with FileStorage(tmp_path / "store", clock=clock) as storage:
        began = clock.now()
        options = PutOptions(key="k", debounce=5.0)
        for _ in range(3):
            id, _ = storage.put_key("q", b"1", options)
            clock.advance(1.0)
        marker = msgspec.json.decode((tmp_path / "store/queues/q/keys" / digest("k")).read_bytes())
        assert marker == {"key": "k", "id": id, "waiting": True, "since": began}
        assert fsck.check(str(tmp_path / "store")) == []


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ({"since": 1.0}, "until that is started"),
        ({"since": 1.0, "waiting": True, "until": 9e9}, "until that is started"),
        ({"since": 1.0, "waiting": True, "over": ["../x"]}, "no event"),
    ],
    ids=["held otherwise", "held for a time", "over nothing"],
)
def test_fsck_knows_what_a_marker_cannot_say(tmp_path: Path, marker: dict[str, object], words: str) -> None:
    with FileStorage(tmp_path / "store") as storage:
        id, _ = storage.put_key("q", b"1", PutOptions(key="k", debounce=60.0))
        path = tmp_path / "store/queues/q/keys" / digest("k")
        path.write_bytes(msgspec.json.encode({"key": "k", "id": id, **marker}))
        (finding,) = fsck.check(str(tmp_path / "store"))
        assert finding.severity == "error"
        assert words in finding.problem
