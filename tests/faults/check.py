"""What must hold of a store after a fault, once somebody has opened it again and looked after it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import msgspec

from eventq.model import FINAL_STATES, Completed, Filter, PutOptions, State
from eventq.storage.file import FileStorage
from eventq.testing import FakeClock
from faults.world import DELIVERED, NOWHERE, Ledger, World

PROBE = "probe:"
"""Payloads with which a key is tried."""
LOOKS = 40


def check(world: World) -> None:
    """Open the store as a fresh worker, drain it, and hold it to the ledger."""
    heir = FileStorage(world.root, clock=world.clock)
    try:
        settle_down(heir, world.clock)
        check_keys(heir, world.ledger)
        delivered, ids = drain(heir, world.clock)
        records = {state: records_of(heir, state) for state in FINAL_STATES}
        hold_to_ledger(world.ledger, delivered, ids, records)
    finally:
        heir.close()
    check_litter(world.root)
    check_fsck(world.root)


def settle_down(heir: FileStorage, clock: FakeClock) -> None:
    """Look until the dead are buried."""
    for _ in range(3):
        clock.advance(0.25)
        heir.recover()


def drain(heir: FileStorage, clock: FakeClock) -> tuple[list[str], dict[str, str]]:
    """Claim and complete whatever comes, until nothing does."""
    delivered: list[str] = []
    ids: dict[str, str] = {}
    quiet = 0
    for _ in range(10_000):
        found = False
        for queue in heir.queues():
            for claimed in heir.claim(queue):
                payload = msgspec.json.decode(claimed.payload)
                if not isinstance(payload, str):
                    payload = repr(payload)
                delivered.append(payload)
                ids[payload] = claimed.id
                heir.settle(claimed, Completed())
                found = True
        if not found:
            quiet += 1
            if quiet > 2:
                return delivered, ids
            clock.advance(10.0)  # what was delayed becomes due
            heir.recover()
    raise AssertionError("the store never comes to an end")


def records_of(heir: FileStorage, state: State) -> dict[str, bytes | None]:
    """Payloads and values of all records of a final state."""
    found: dict[str, bytes | None] = {}
    for queue in heir.queues():
        for record in heir.scan(queue, state, Filter(), None, 10_000).records:
            payload = msgspec.json.decode(record.payload)
            assert payload not in found, f"{payload!r} is twice in {state}"
            found[payload] = record.value
    return found


def hold_to_ledger(
    ledger: Ledger, delivered: list[str], ids: dict[str, str], records: dict[State, dict[str, bytes | None]]
) -> None:
    counts = Counter(payload for payload in delivered if not payload.startswith(PROBE))
    problems = [f"{payload!r} came out and was never put" for payload in counts if payload not in ledger.fates]
    for payload, allowed in ledger.fates.items():
        fates = [DELIVERED] * counts[payload] + [state.value for state in FINAL_STATES if payload in records[state]]
        if not fates:
            fates = [NOWHERE]
        if len(fates) > 1 or fates[0] not in allowed:
            problems.append(f"{payload!r}: {' and '.join(fates)}; allowed: {' or '.join(sorted(allowed))}")
        if payload in ids and payload in ledger.ids and ids[payload] != ledger.ids[payload]:
            problems.append(f"{payload!r} was put as {ledger.ids[payload]} and came as {ids[payload]}")
        value = records[State.COMPLETED].get(payload)
        if fates == ["completed"] and value != ledger.values.get(payload):
            problems.append(f"{payload!r} completed with {ledger.values.get(payload)!r}; kept: {value!r}")
    for chain in ledger.chains.values():
        came = {payload for payload in chain if counts[payload]} | (ledger.settled & chain.keys())
        problems += [
            f"{payload!r} was acknowledged, and neither it nor a later one of its chain came"
            for payload, before in chain.items()
            if payload in ledger.ids and not came - before
        ]
    problems += [
        f"a put of {len(group)} events came in part"
        for group in ledger.together
        if len({counts[payload] for payload in group if ledger.fates[payload] == {DELIVERED, NOWHERE}}) > 1
    ]
    assert not problems, "; ".join(problems)


def check_keys(heir: FileStorage, ledger: Ledger) -> None:
    """A key is held by its event while that is open, and else free."""
    if heir.settings("q").maxsize is not None:
        heir.configure("q", {"maxsize": None})
    for key, payloads in (ledger.keys | ledger.chains).items():
        open_ids = {
            msgspec.json.decode(record.payload): record.id
            for state in (State.READY, State.DELAYED)
            for record in heir.scan("q", state, Filter()).records
        }
        id, fresh = heir.put_key("q", msgspec.json.encode(PROBE + key), PutOptions(key=key))
        holders = [open_ids[payload] for payload in payloads if payload in open_ids]
        assert len(holders) < 2 or key in ledger.chains, f"two events hold the key {key!r}"
        if holders:
            assert not fresh, f"the key {key!r} is free though its event is open"
            assert id in holders, f"the key {key!r} names {id}; its event is {holders[0]}"
        elif key not in ledger.held:
            assert fresh, f"the key {key!r} is held though no event has it"


ALLOWED_TOP = {
    "FORMAT", "ballast", "queues", "workers", "free", "corrupt", "names", "slots", "rates", "topics", "schedules"
}  # fmt: skip


def check_litter(root: Path) -> None:
    """Nothing is left of anybody who is not there any more."""
    litter = sorted(set(os.listdir(root)) - ALLOWED_TOP)
    for folder in ("workers", "corrupt"):
        litter += [f"{folder}/{name}" for name in os.listdir(root / folder)]
    for folder, folders, files in os.walk(root / "queues"):
        litter += [f"{folder}/{name}" for name in (*folders, *files) if name.startswith(".")]
        if {"ready", "delayed", "blocked"} & set(Path(folder).relative_to(root).parts):
            litter += [f"{folder}/{name}" for name in files]
    assert not litter, f"left behind: {litter}"


def check_fsck(root: Path) -> None:
    """The store's own checker finds nothing wrong either."""
    try:
        from eventq.storage.file import fsck  # type: ignore[attr-defined]
    except ImportError:
        return
    problems = [finding for finding in fsck.check(str(root)) if finding.severity != "note"]
    assert not problems, f"fsck: {problems}"
