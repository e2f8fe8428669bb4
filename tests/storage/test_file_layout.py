"""Names: what one name says is what is read from it, and different things never share one."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventq.errors import ConfigError
from eventq.storage.file.layout import (
    BUCKET,
    CLAIM_FILE,
    DELAYED_FILE,
    EVENT_FILE,
    KEYED_DRAFT,
    MAX_QUEUE_NAME,
    PRIORITY,
    QueuePaths,
    bucket_of,
    came_back,
    decode_queue,
    digest,
    due_digits,
    encode_queue,
)

STEM = "18ea02eba58bb4009f3c51d07ab2e84600002a"

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=24)
queues = texts.filter(lambda text: len(text.encode()) * 3 <= MAX_QUEUE_NAME)
awkward = st.text(st.sampled_from("aA_-.4/~\0ßÅé5f "), min_size=1, max_size=20)


@given(queues | awkward)
@example("_41")
@example("A")
@example("..")
@example("con")
@example("/etc/passwd")
def test_a_queues_folder_says_its_name(name: str) -> None:
    folder = encode_queue(name)
    assert decode_queue(folder) == name
    assert folder
    assert set(folder) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")


@given(awkward, awkward)
@example("a", "A")
@example("_", "__")
@example("_41", "A")
@example("é", "e\N{COMBINING ACUTE ACCENT}")
@example("ß", "ss")
def test_two_queues_never_share_a_folder_even_where_case_folds(one: str, other: str) -> None:
    assert (one == other) == (encode_queue(one).casefold() == encode_queue(other).casefold())


@given(st.text(st.sampled_from("abf0_-4xA."), max_size=12))
def test_a_folder_that_no_queue_has_is_refused(folder: str) -> None:
    try:
        name = decode_queue(folder)
    except ValueError:
        return
    assert encode_queue(name) == folder


@pytest.mark.parametrize("folder", ["", "A", "a_b", "_4", "_", "_zz", "_61", "_5f", "_ff", ".x", "a/b", "_+1", "_ 1"])
def test_folders_of_no_queue(folder: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode_queue(folder)


@pytest.mark.parametrize("name", ["", "x" * 101, "é" * 17, "\ud800", None, 7])
def test_impossible_queue_names(name: object) -> None:
    with pytest.raises(ConfigError):
        encode_queue(name)  # type: ignore[arg-type]


@given(st.text(max_size=50), st.text(max_size=50))
def test_digests_of_any_text(one: str, other: str) -> None:
    assert len(digest(one)) == 64
    assert (digest(one) == digest(other)) == (one == other)


@given(st.floats(0, 9e9), st.floats(0, 9e9))
def test_due_times_sort_as_their_digits(one: float, other: float) -> None:
    if one < other:
        assert due_digits(one) <= due_digits(other)
        assert bucket_of(due_digits(one)) <= bucket_of(due_digits(other))
    assert BUCKET.match(bucket_of(due_digits(one)))


@pytest.mark.parametrize("due", [-1.0, 0.0, 1e300])
def test_due_times_out_of_range_have_digits_too(due: float) -> None:
    assert len(due_digits(due)) == 16


@given(awkward, st.integers(-100, 100), st.sampled_from([STEM, STEM + "+", STEM + ".00001", STEM + ".00001+"]))
def test_a_claims_name_says_where_it_belongs(queue: str, priority: int, name: str) -> None:
    paths = QueuePaths("/store", queue)
    match = CLAIM_FILE.match(paths.claim_name(priority, name))
    assert match is not None
    assert (decode_queue(match[1]), int(match[2]), match[3]) == (queue, priority, name)
    assert EVENT_FILE.match(match[3])


@given(awkward, st.integers(-100, 100), st.floats(0, 9e9))
def test_a_delayed_and_a_keyed_name_say_where_they_belong(queue: str, priority: int, due: float) -> None:
    paths = QueuePaths("/store", queue)
    folder, name = paths.delayed_name(due, priority, STEM)
    match = DELAYED_FILE.match(name)
    assert match is not None
    assert (match[1], int(match[2]), match[3]) == (due_digits(due), priority, STEM)
    assert folder == f"{paths.delayed}{name[:7]}/"
    keyed = KEYED_DRAFT.match(paths.keyed_draft(due, priority, STEM))
    assert keyed is not None
    assert (decode_queue(keyed[1]), int(keyed[2]), keyed[3], keyed[4]) == (queue, priority, due_digits(due), STEM)


def test_a_claim_in_the_store_of_the_longest_names_fits_a_file_system() -> None:
    paths = QueuePaths("/store", "x" * MAX_QUEUE_NAME)
    assert len(paths.claim_name(-100, STEM + ".00001+")) <= 255
    assert len(f"{STEM}={paths.claim_name(-100, 'x' * 80)}") <= 255
    assert len(paths.keyed_draft(1.0, -100, STEM)) <= 255


def test_what_came_back_twice_has_one_mark() -> None:
    assert came_back(STEM) == came_back(came_back(STEM)) == STEM + "+"
    assert EVENT_FILE.match(came_back(STEM))
    assert not EVENT_FILE.match(STEM + "++")


def test_priorities_have_one_spelling() -> None:
    assert [name for name in map(str, range(-100, 101)) if not PRIORITY.match(name)] == []
    for name in ("", "-0", "00", "007", "+1", "1_0", " 1", "1 ", "--5", "²", "٣", "1\n", "a"):
        assert not PRIORITY.match(name), repr(name)
