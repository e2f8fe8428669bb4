"""Records in revisions: of changes at the same time each is made of what the one before has left, and none is lost."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from stores import kinds, new_store

from eventq import StorageError
from eventq.revisions import LOOKS, Traced, TracedRevisions, newest
from eventq.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eventq.storage import Storage


class Count(Traced, frozen=True, kw_only=True):
    number: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Count) and self.number == other.number

    def __hash__(self) -> int:
        return hash(self.number)


COUNTS: TracedRevisions[Count] = TracedRevisions("count", Count)


@pytest.fixture(params=kinds("memory", "file"))
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    with new_store(request.param, tmp_path) as url, open_storage(url) as storage:
        yield storage


def one_more(old: Count | None) -> Count:
    return Count(number=1 if old is None else old.number + 1)


def standing(storage: Storage) -> Count | None:
    found = newest(COUNTS.held_of(storage, "x"))
    return None if found is None else found[1]


def test_a_change_takes_the_next_revision_and_releases_the_last(storage: Storage) -> None:
    for number in range(1, 4):
        assert COUNTS.change(storage, "x", one_more) == Count(number=number)
        assert [each.name for each in storage.names()] == [COUNTS.name_of("x", number)]
    assert COUNTS.current(storage, "x", 3) == Count(number=3)
    assert COUNTS.current(storage, "x", 2) is None
    assert COUNTS.change(storage, "x", lambda old: old) == Count(number=3)
    assert COUNTS.change(storage, "x", lambda _: None) is None
    assert storage.names() == []
    assert COUNTS.change(storage, "x", lambda _: None) is None


def test_no_change_is_lost_and_none_is_made_twice(storage: Storage) -> None:
    def count() -> None:
        for _ in range(5):
            COUNTS.change(storage, "x", one_more)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert standing(storage) == Count(number=20)
    assert len(storage.names()) == 1


def test_what_killed_processes_have_left_is_released_by_the_next_change(storage: Storage) -> None:
    for revision in (3, 5, 6):
        COUNTS.take(storage, "x", revision, Count(number=revision))
    assert standing(storage) == Count(number=6)
    assert COUNTS.change(storage, "x", one_more) == Count(number=7)
    assert [each.name for each in storage.names()] == [COUNTS.name_of("x", 7)]
    COUNTS.take(storage, "x", 2, Count(number=2))
    assert COUNTS.tidied(storage, COUNTS.held(storage)) == {"x": (7, Count(number=7))}
    assert len(storage.names()) == 1


@pytest.mark.parametrize("left", [False, True], ids=["alone", "beside an older one"])
def test_who_has_read_what_was_replaced_long_ago_changes_nothing_by_it(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    """Its own revision is free again by then, so taking it proves nothing; nor does it that an older one still stood,
    which a killed process has left."""
    COUNTS.take(storage, "x", 1, Count(number=1))
    names, stale = storage.names, storage.names()

    def once(prefix: str = "") -> Any:
        monkeypatch.undo()
        for _ in range(3):
            COUNTS.change(storage, "x", one_more)
        if left:
            COUNTS.take(storage, "x", 1, Count(number=1))
        return stale

    monkeypatch.setattr(storage, "names", once)
    assert COUNTS.change(storage, "x", one_more) == Count(number=5)
    assert standing(storage) == Count(number=5)
    assert [each.name for each in names()] == [COUNTS.name_of("x", 5)]


def test_a_change_that_others_have_gone_on_from_is_not_made_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others read it, and replace it and what it has replaced, before its maker looks whether it counts."""
    COUNTS.change(storage, "x", one_more)
    take = storage.take_name

    def taken(name: str, data: bytes) -> Any:
        monkeypatch.undo()
        answer = take(name, data)
        for _ in range(3):
            COUNTS.change(storage, "x", one_more)
        return answer

    monkeypatch.setattr(storage, "take_name", taken)
    assert COUNTS.change(storage, "x", one_more) == Count(number=2)
    assert standing(storage) == Count(number=5)
    assert len(storage.names()) == 1


def test_a_look_that_finds_nothing_is_not_believed(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    COUNTS.change(storage, "x", one_more)
    names, looks = storage.names, []

    def blind(prefix: str = "") -> Any:
        looks.append(prefix)
        return names(prefix) if len(looks) >= LOOKS else []

    monkeypatch.setattr(storage, "names", blind)
    assert COUNTS.change(storage, "x", one_more) == Count(number=2)


def test_who_is_always_overtaken_gives_up(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "take_name", lambda name, data: (None, False))
    with pytest.raises(StorageError, match="the count 'x' is changed faster than it can be read"):
        COUNTS.change(storage, "x", one_more)


def test_names_that_are_no_records_hide_no_others(storage: Storage) -> None:
    COUNTS.change(storage, "a/b", one_more)
    storage.take_name(COUNTS.name_of("newer", 3), b'{"number": "three"}')
    storage.take_name(f"{COUNTS.prefix}odd", b"1")
    assert {name: newest(held) for name, held in COUNTS.held(storage).items()} == {
        "a/b": (1, Count(number=1)),
        "newer": None,
    }
