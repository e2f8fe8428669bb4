"""Settling a claim: what each outcome does to the event's file."""

from __future__ import annotations

from eventq.model import Completed, Dropped, Failure, Outcome, Rejected, Retried, Skipped, State
from eventq.storage.file import line
from eventq.storage.file.feed import Feed
from eventq.storage.file.held import Entry, Holder
from eventq.storage.file.kept import longer
from eventq.storage.file.line import RecordLine
from eventq.storage.file.wake import wake


def settle(holder: Holder, feed: Feed, entry: Entry, outcome: Outcome) -> None:
    """End a claim with an outcome. The caller has the claims lock, and checked that the claim is held."""
    if isinstance(outcome, Completed):
        _complete(holder, feed, entry, outcome)
        return
    stem, index = entry.held.stem, entry.index
    record = RecordLine(f"{stem}.{index:05x}", "released", holder.clock.now(), holder.room.worker)
    if isinstance(outcome, Rejected):
        record.step, record.outcome, record.error = "settled", State.DEAD.value, line.clip(outcome.failure)
        holder.bury(entry, State.DEAD, record)
    elif isinstance(outcome, Dropped):
        record.step, record.outcome = "settled", outcome.state.value
        record.error = Failure(outcome.state.value, outcome.reason)
        holder.bury(entry, outcome.state, record)
    elif isinstance(outcome, Skipped):
        record.step = "skipped"
        feed.skip(entry, line.record_line(record))
    elif isinstance(outcome, Retried):
        record.step, record.error = "failed", line.clip(outcome.failure)
        _put_back(holder, feed, entry, record, outcome.delay)
    elif outcome.delay > 0 or not feed.take_back(entry, line.record_line(record)):
        _put_back(holder, feed, entry, record, outcome.delay)


def _complete(holder: Holder, feed: Feed, entry: Entry, outcome: Completed) -> None:
    held = entry.held
    assert entry.claimed is not None
    keep = feed.settings.keep if entry.claimed.keep is None else entry.claimed.keep
    if outcome.value is None or keep <= 0:
        holder.complete(entry)
        return
    own = entry.claimed.keep if entry.claimed.keep != entry.event().keep else None
    text = line.value_line(held.stem, entry.index, holder.clock.now(), outcome.value, outcome.codec, own)
    if entry.event().born is not None:
        holder.bury(entry, State.COMPLETED, line.decode_record(text))
        return
    id = entry.id
    before, held.keep = held.keep, longer(held.keep, entry.claimed.keep, feed.settings.keep)
    try:
        holder.end(entry, text)
    except BaseException:
        held.keep = before
        raise
    holder.announce(id)


def _put_back(holder: Holder, feed: Feed, entry: Entry, record: RecordLine, delay: float) -> None:
    due = holder.clock.now() + delay if delay > 0 else None
    holder.put_back(entry, line.record_line(record), due)
    if due is None:
        feed.forget_listing()
    else:
        feed.expect(due)
    wake(entry.held.paths.wake)
