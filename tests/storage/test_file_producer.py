"""Putting from several threads of one process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from eventq.ids import index_of, is_event_id, stem_of
from eventq.model import PutOptions, Settings
from eventq.storage.file import FileStorage

if TYPE_CHECKING:
    from pathlib import Path


def test_a_put_while_another_thread_reads_the_limit_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first put of a queue reads its settings; a second thread puts in the middle of that."""
    with FileStorage(tmp_path / "store", sync=False) as storage:
        both = Barrier(2, timeout=10)
        real = FileStorage.settings

        def settings(self: FileStorage, queue: str) -> Settings:
            both.wait()  # both threads are here: neither has taken a half-read limit for the truth
            return real(self, queue)

        storage.put("other", [b"0"], PutOptions())
        monkeypatch.setattr(FileStorage, "settings", settings)
        with ThreadPoolExecutor(2) as pool:
            puts = [pool.submit(storage.put, "q", [b"1"], PutOptions()) for _ in range(2)]
            ids = [id for put in puts for id in put.result(timeout=10)]
        monkeypatch.undo()
        assert len(set(ids)) == 2
        assert storage.stats("q").ready == 2


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 4096, 4097])
def test_the_ids_of_one_put(tmp_path: Path, count: int) -> None:
    """Each names its own event by its place in the put."""
    with FileStorage(tmp_path / "store", sync=False) as storage:
        ids = storage.put("q", [b"%d" % number for number in range(count)], PutOptions())
        assert all(map(is_event_id, ids))
        assert len({stem_of(id) for id in ids}) == 1
        assert [index_of(id) for id in ids] == list(range(count))
        assert sorted(set(ids)) == ids
        assert [(claimed.id, int(claimed.payload)) for claimed in storage.claim("q", count)] == [
            (id, number) for number, id in enumerate(ids)
        ]
