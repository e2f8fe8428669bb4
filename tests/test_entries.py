"""Entries: of changes at the same time each is made of what the one before has left, and none is lost."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from stores import kinds, new_store

from eventq import ConfigError, StorageError
from eventq.entries import Entries
from eventq.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eventq.storage import Storage


class Count(msgspec.Struct, frozen=True):
    number: int


COUNTS: Entries[Count] = Entries("count", Count)


@pytest.fixture(params=kinds("memory", "file"))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with new_store(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def storage(url: str) -> Iterator[Storage]:
    with open_storage(url) as storage:
        yield storage


def one_more(old: Count | None) -> Count:
    return Count(1 if old is None else old.number + 1)


def test_a_change_takes_the_place_of_what_was_there(storage: Storage) -> None:
    for number in range(1, 4):
        assert COUNTS.change(storage, "x", one_more) == Count(number)
        assert COUNTS.get(storage, "x") == Count(number)
        assert [each.name for each in storage.names()] == ["eventq.count/x"]
    (before,) = storage.names()
    assert COUNTS.change(storage, "x", lambda old: old) == Count(3)
    assert storage.names() == [before]
    assert COUNTS.change(storage, "x", lambda _: None) is None
    assert storage.names() == []
    assert COUNTS.change(storage, "x", lambda _: None) is None
    assert COUNTS.get(storage, "x") is None


def test_remove(storage: Storage) -> None:
    for name in ("a", "a/b"):
        COUNTS.change(storage, name, one_more)
    assert COUNTS.remove(storage, "a")
    assert not COUNTS.remove(storage, "a")
    assert COUNTS.all(storage) == {"a/b": Count(1)}


def test_no_change_is_lost_and_none_is_made_twice(url: str) -> None:
    """However many are at it: on files this was lost when a look at a folder missed one name that took the place of
    another, while each change had a name of its own."""

    def count(storage: Storage, times: int) -> None:
        for _ in range(times):
            COUNTS.change(storage, "x", one_more)

    with open_storage(url) as one, open_storage(url) as two:
        threads = [threading.Thread(target=count, args=(storage, 25)) for storage in (one, two) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert COUNTS.get(one, "x") == Count(100)
        assert len(one.names()) == 1


def meanwhile(storage: Storage, monkeypatch: pytest.MonkeyPatch, method: str, after: bool, act: Any) -> None:
    """Have something happen before, or after, the next call of a method."""
    real = getattr(storage, method)

    def interleaved(*args: Any) -> Any:
        monkeypatch.undo()
        if not after:
            act()
        answer = real(*args)
        if after:
            act()
        return answer

    monkeypatch.setattr(storage, method, interleaved)


STEPS = [(False, "get_names"), (False, "take_name"), (True, "get_names"), (True, "replace_name")]
"""Of a change: whether there is an entry, and what the storage is asked."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("there", "method"), STEPS)
def test_what_others_change_between_any_two_steps_is_kept(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, there: bool, method: str, after: bool
) -> None:
    if there:
        COUNTS.change(storage, "x", one_more)
    meanwhile(storage, monkeypatch, method, after, lambda: [COUNTS.change(storage, "x", one_more) for _ in range(3)])
    mine = COUNTS.change(storage, "x", one_more)
    assert mine == Count(there + 1 if after and method != "get_names" else there + 4)
    assert COUNTS.get(storage, "x") == Count(there + 4)


@pytest.mark.parametrize("method", ["get_names", "replace_name"])
def test_a_change_of_what_others_have_removed_meanwhile_is_asked_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    for _ in range(5):
        COUNTS.change(storage, "x", one_more)
    meanwhile(storage, monkeypatch, method, method == "get_names", lambda: COUNTS.remove(storage, "x"))
    asked: list[Count | None] = []

    def noted(old: Count | None) -> Count:
        asked.append(old)
        return one_more(old)

    assert COUNTS.change(storage, "x", noted) == Count(1)
    assert asked == [Count(5), None]
    assert COUNTS.get(storage, "x") == Count(1)


def test_who_is_always_overtaken_gives_up(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "take_name", lambda name, data: (None, False))
    with pytest.raises(StorageError, match="the count 'x' is changed faster than it can be read"):
        COUNTS.change(storage, "x", one_more)


def test_what_this_version_cannot_read_stays_and_hides_no_others(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    COUNTS.change(storage, "a", one_more)
    storage.take_name("eventq.count/newer", b'{"number": "three"}')
    assert COUNTS.all(storage) == {"a": Count(1)}
    assert "the count under the name 'eventq.count/newer' cannot be read here" in caplog.text
    for act in (COUNTS.get, lambda storage, name: COUNTS.change(storage, name, one_more)):
        with pytest.raises(ConfigError, match=r"'eventq\.count/newer' cannot be read here"):
            act(storage, "newer")
    assert len(storage.names()) == 2
    assert COUNTS.remove(storage, "newer")
