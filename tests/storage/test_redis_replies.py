"""Redis: a request is carried out, and its reply never comes. Asked for again, it must happen but once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from redis_proxy import Proxy
from redis_server import redis_store, until

from eventq.clock import SYSTEM
from eventq.errors import ClaimLost, OutcomeUnknown
from eventq.model import (
    Cancel,
    Completed,
    Delete,
    Filter,
    Move,
    PutOptions,
    Rejected,
    Released,
    Requeue,
    Retried,
    State,
)
from eventq.storage.redis import RedisStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventq.model import Edit, Outcome

pytestmark = pytest.mark.server

PLAIN = PutOptions()


def put(storage: RedisStorage, *payloads: bytes) -> list[str]:
    return storage.put("q", list(payloads) or [b"1"], PLAIN)


class Cut:
    """A storage whose connection is cut after a request with some bytes was sent on; and a witness."""

    def __init__(self, proxy: Proxy, storage: RedisStorage, witness: RedisStorage) -> None:
        self.proxy = proxy
        self.storage = storage
        self.witness = witness

    def losing(self, words: bytes, call: Callable[[], Any]) -> Any:
        """What a call returns whose first reply is lost."""
        self.proxy.lose_reply_to(words)
        found = call()
        assert self.proxy.cuts == 1, "nothing was cut"
        return found


@pytest.fixture
def cut() -> Iterator[Cut]:
    with redis_store() as url, Proxy(url) as proxy, RedisStorage(proxy.url) as storage, RedisStorage(url) as witness:
        yield Cut(proxy, storage, witness)


def test_a_put_whose_reply_is_lost_is_there_once(cut: Cut) -> None:
    ids = cut.losing(b"marked", lambda: put(cut.storage, b"marked", b"another"))
    assert [record.id for record in cut.witness.scan("q", State.READY, Filter()).records] == ids


def test_a_put_whose_reply_is_lost_is_there_once_also_if_it_is_done_already(cut: Cut) -> None:
    """The events have gone before it is asked for again: their ids are not there to be found."""
    waiting = threading.Event()

    def work() -> None:
        waiting.set()
        claimed = until(lambda: cut.witness.claim("q"))[0]
        cut.witness.settle(claimed, Completed())

    worker = threading.Thread(target=work)
    worker.start()
    waiting.wait(10)
    attempts = cut.storage._server._attempts

    def late(*arguments: Any) -> Any:
        worker.join(10)
        return attempts(*arguments)

    cut.storage._server._attempts = late  # type: ignore[method-assign]
    (id,) = cut.losing(b"marked", lambda: put(cut.storage, b"marked"))
    assert cut.witness.get(id) is None
    assert cut.witness.stats("q").ready == 0


def test_a_keyed_put_whose_reply_is_lost_is_new(cut: Cut) -> None:
    options = PutOptions(key="marked")
    id, new = cut.losing(b"marked", lambda: cut.storage.put_key("q", b"1", options))
    assert new
    assert cut.witness.put_key("q", b"2", options) == (id, False)
    assert cut.witness.stats("q").ready == 1


def test_a_debounced_put_whose_reply_is_lost_displaces_once(cut: Cut) -> None:
    options = PutOptions(key="marked", debounce=60.0)
    first, _ = cut.storage.put_key("q", b"1", options)
    second, new = cut.losing(b"marked", lambda: cut.storage.put_key("q", b"2", options))
    assert new
    stats = cut.witness.stats("q")
    assert (stats.delayed, stats.cancelled) == (1, 1)
    assert cut.witness.put_key("q", b"3", PutOptions(key="marked")) == (second, False)
    assert first != second


def test_a_claim_whose_reply_is_lost_is_answered_by_the_next(cut: Cut) -> None:
    assert cut.storage.claim("q") == []  # so that it has joined
    ids = put(cut.storage, b"1", b"2", b"3")
    found = cut.losing(b"$1\r\nq\r\n", lambda: cut.storage.claim("q", 2))
    assert [claimed.id for claimed in found] == ids[:2]
    assert cut.witness.stats("q").claimed == 2
    for claimed in found:
        cut.storage.settle(claimed, Completed())


def test_what_a_call_has_claimed_that_gave_up_goes_back(cut: Cut) -> None:
    assert cut.storage.claim("q") == []
    put(cut.storage)
    cut.storage._server.patience = 0.0
    cut.proxy.lose_reply_to(b"$1\r\nq\r\n", times=2)
    with pytest.raises(OutcomeUnknown, match="claim"):
        cut.storage.claim("q")
    cut.storage._server.patience = 10.0
    assert cut.witness.stats("q").claimed == 1
    until(lambda: cut.storage.recover() >= 0 and cut.witness.stats("q").claimed == 0)
    (again,) = cut.witness.claim("q")
    assert again.crashes == 0


OUTCOMES = (Completed(), Completed(b"7"), Retried(), Retried(60.0), Released(), Rejected())


@pytest.mark.parametrize("outcome", OUTCOMES, ids=repr)
def test_a_settle_whose_reply_is_lost_has_happened_once(cut: Cut, outcome: Outcome) -> None:
    (id,) = put(cut.storage)
    (claimed,) = cut.storage.claim("q")
    cut.losing(id.encode(), lambda: cut.storage.settle(claimed, outcome))
    record = cut.witness.get(id)
    if outcome == Completed():
        assert record is None
    else:
        assert record is not None
        assert len(record.attempts) == 1
        assert record.failures == (1 if isinstance(outcome, Retried | Rejected) else 0)
    with pytest.raises(ClaimLost):
        cut.storage.settle(claimed, Completed())


def test_a_settle_that_came_too_late_is_lost_also_when_it_is_asked_for_again(cut: Cut) -> None:
    """Another one's ending is not taken for its own."""
    (id,) = put(cut.storage)
    (claimed,) = cut.storage.claim("q")
    cut.storage.settle(claimed, Released())
    (again,) = cut.witness.claim("q")
    cut.witness.settle(again, Rejected())
    late = type(claimed)(
        claimed.id, "q", b"", "json", {}, 0, 0, 0, None, None, type(claimed.token)(b"99", claimed.token.store)
    )  # a claim of this worker's that never was
    with pytest.raises(ClaimLost):
        cut.losing(id.encode(), lambda: cut.storage.settle(late, Completed()))


def test_a_note_whose_reply_is_lost_is_there_once(cut: Cut) -> None:
    (id,) = put(cut.storage)
    (claimed,) = cut.storage.claim("q")
    cut.losing(b"marked", lambda: cut.storage.note(claimed, "progress", b'"marked"'))
    cut.storage.note(claimed, "progress", b"2")
    assert [(note.number, note.value) for note in cut.witness.notes(id)] == [(1, "marked"), (2, 2)]


@pytest.mark.parametrize("edit", [Cancel(), Requeue(), Move("other"), Delete()], ids=repr)
def test_an_edit_whose_reply_is_lost_says_what_it_did(cut: Cut, edit: Edit) -> None:
    (id,) = cut.storage.put("q", [b"1"], PutOptions(due=SYSTEM.now() + 100))
    words = cut.losing(id.encode(), lambda: cut.storage.edit("q", [id], edit))
    expected = {Cancel: "cancelled", Requeue: id, Move: "moved", Delete: "deleted"}
    assert words == [expected[type(edit)]]


def test_a_replay_whose_reply_is_lost_is_one_event(cut: Cut) -> None:
    (id,) = put(cut.storage)
    cut.storage.settle(cut.storage.claim("q")[0], Completed(b"1"))
    (new,) = cut.losing(id.encode(), lambda: cut.storage.edit("q", [id], Requeue()))
    assert [claimed.id for claimed in cut.witness.claim("q", 9)] == [new]


def test_a_name_whose_reply_is_lost_is_this_ones(cut: Cut) -> None:
    assert cut.losing(b"marked", lambda: cut.storage.take_name("marked", b"1"))[1]
    assert not cut.storage.take_name("marked", b"1")[1]


def test_a_slot_whose_reply_is_lost_is_taken_once(cut: Cut) -> None:
    cut.storage.claim("q")
    slot = cut.losing(b"marked", lambda: cut.storage.take_slot("marked", 2))
    assert slot is not None
    other = cut.witness.take_slot("marked", 2)
    assert other is not None
    assert cut.witness.take_slot("marked", 2) is None
    slot.release()
    assert cut.witness.take_slot("marked", 2) is not None
