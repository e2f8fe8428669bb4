"""Event ids: their form, and that they rise and never repeat."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventq import ids
from eventq.testing import FakeClock


def stamps(clock: FakeClock, worker: str = "0123456789abcdef") -> ids.Stamps:
    return ids.Stamps(worker, clock)


def test_an_id_says_when_and_by_whom(clock: FakeClock) -> None:
    stem = stamps(clock).next()
    id = ids.event_id(stem, 77)
    assert len(stem) == ids.STEM_LENGTH
    assert len(id) == ids.ID_LENGTH
    assert ids.is_event_id(id)
    assert ids.stem_of(id) == stem
    assert ids.index_of(id) == 77
    assert ids.worker_of(id) == "0123456789abcdef"
    assert ids.nanoseconds_of(id) == int(clock.now() * 1e9)
    assert ids.created_of(id) == pytest.approx(clock.now(), abs=1e-6)


def test_worker_ids_are_random() -> None:
    found = {ids.new_worker_id() for _ in range(1000)}
    assert len(found) == 1000
    assert all(len(worker) == 16 and int(worker, 16) >= 0 for worker in found)


@given(st.lists(st.floats(-100.0, 100.0), max_size=50))
def test_stems_rise_whatever_the_clock_does(steps: list[float]) -> None:
    clock = FakeClock()
    source = stamps(clock)
    made = [source.next()]
    for step in steps:
        clock.step_wall(step)
        made.append(source.next())
    assert made == sorted(set(made))


def test_stems_rise_within_one_instant(clock: FakeClock) -> None:
    source = stamps(clock)
    made = [source.next() for _ in range(10_000)]
    assert made == sorted(set(made))


def test_stems_follow_the_clock_again_once_it_is_ahead(clock: FakeClock) -> None:
    source = stamps(clock)
    source.next()
    clock.step_wall(-3600)
    source.next()
    clock.step_wall(7200)
    assert ids.nanoseconds_of(source.next()) == int(clock.now() * 1e9)


def test_stems_of_one_instant_are_unique(clock: FakeClock) -> None:
    source = stamps(clock)
    made = {source.at(5) for _ in range(1000)}
    assert len(made) == 1000
    assert {ids.nanoseconds_of(stem) for stem in made} == {5}


def test_stems_of_two_workers_differ(clock: FakeClock) -> None:
    assert stamps(clock, "a" * 16).next() != stamps(clock, "b" * 16).next()


@given(st.integers(0, 99_999), st.integers(0, 99_999))
def test_ids_of_one_put_sort_by_index(one: int, two: int) -> None:
    stem = "0" * ids.STEM_LENGTH
    assert (ids.event_id(stem, one) < ids.event_id(stem, two)) == (one < two)
    assert ids.index_of(ids.event_id(stem, one)) == one


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "0" * 38, "0" * 44, "0" * 38 + ".0000", "0" * 38 + ".000000", "0" * 38 + ".0000g", "A" * 38 + ".00000",
        "0" * 38 + ".00000\n", " " + "0" * 38 + ".00000", "../" + "0" * 35 + ".00000", "\u0660" * 38 + ".00000",
    ],
)  # fmt: skip
def test_what_is_no_id_is_known(text: str) -> None:
    assert not ids.is_event_id(text)
