"""The state of a run follows from its arrivals, whatever their order."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import msgspec
import pytest

from eventq.model import State
from eventq.workflow.graph import Edge, Graph
from eventq.workflow.state import Arrival, RunState
from workflows.test_graph import graph, node

BEGIN = Arrival(kind="begin")


def new(found: Graph) -> RunState:
    return RunState(found, lambda data, codec: json.loads(data))


def done(name: str, value: Any = None, generation: int = 1) -> Arrival:
    return Arrival(node=name, id=f"id of {name}", value=msgspec.Raw(msgspec.json.encode(value)), generation=generation)


def dead(name: str, generation: int = 1) -> Arrival:
    return Arrival(node=name, id=f"id of {name}", state=State.DEAD, generation=generation)


DIAMOND = graph(node("a"), node("b", "a"), node("c", "a"), node("d", "b", "c"))


def test_a_diamond_joins_once() -> None:
    state = new(DIAMOND)
    assert state.apply(BEGIN) == ["a"]
    assert sorted(state.apply(done("a")) or ()) == ["b", "c"]
    assert state.apply(done("c")) == []
    assert state.apply(done("c")) is None
    assert state.apply(done("b")) == ["d"]
    assert not state.over
    assert state.apply(done("d", 4)) == []
    assert state.over
    assert state.value("d") == 4


def test_a_failure_stops_its_branch_alone() -> None:
    state = new(graph(node("a"), node("b"), node("c", "a"), node("d", "c"), node("e", "b")))
    assert state.apply(BEGIN) == ["a", "b"]
    assert state.apply(dead("a")) == []
    assert state.status["c"] == state.status["d"] == "skipped"
    assert state.skipped["d"].failed == "a"
    assert not state.over
    assert state.apply(done("b")) == ["e"]
    state.apply(done("e"))
    assert state.over
    assert state.failed == "a"


def test_continue_lets_the_others_go_on() -> None:
    state = new(graph(node("a", on_failure="continue"), node("b", "a")))
    state.apply(BEGIN)
    assert state.apply(dead("a")) == ["b"]
    assert state.value("a") is None
    state.apply(done("b"))
    assert state.over
    assert state.failed is None


def routes() -> Graph:
    return graph(
        node("check"),
        node("big", after=(Edge("check", ("big",)),)),
        node("small", after=(Edge("check", ("small",)),)),
        node("other", after=(Edge("check", ("big", "small"), unless=True),)),
        node("join", "big", "small", "other"),
    )


@pytest.mark.parametrize(("result", "chosen"), [("big", "big"), ("small", "small"), ("x", "other"), (None, "other")])
def test_a_result_chooses_the_way(result: Any, chosen: str) -> None:
    state = new(routes())
    assert state.apply(BEGIN) == ["check"]
    assert state.apply(done("check", result)) == [chosen]
    assert state.apply(done(chosen)) == ["join"]
    assert {name for name, status in state.status.items() if status == "skipped"} == {"big", "small", "other"} - {
        chosen
    }


def test_completed_steps_are_undone_in_reverse() -> None:
    undone = [node(name, *parents, undo=node(f"{name}.undo", name)) for name, *parents in ("a", "ba", "cb")]
    state = new(graph(*undone, node("d", "c")))
    state.apply(BEGIN)
    for name in "abc":
        state.apply(done(name))
    assert state.apply(dead("d")) == ["c.undo"]
    assert not state.over
    assert state.apply(dead("c.undo")) == ["b.undo"]
    assert state.apply(done("b.undo")) == ["a.undo"]
    assert not state.over
    assert state.apply(done("a.undo")) == []
    assert state.over
    assert state.apply(Arrival(kind="begin", generation=2)) == ["a", "d"]  # what was undone is done again
    assert state.status["b"] == "waiting"
    assert state.status["c"] == "completed", "what undoes it has failed"


def test_resumed_runs_keep_what_is_completed() -> None:
    state = new(DIAMOND)
    for arrival in (BEGIN, done("a", 1), dead("b"), done("c", 3)):
        state.apply(arrival)
    assert state.over
    assert state.apply(Arrival(kind="begin", generation=2)) == ["b"]
    assert state.apply(done("b")) is None, "of the first time"
    assert state.apply(done("b", 2, 2)) == ["d"]
    assert (state.value("a"), state.value("c"), state.failed) == (1, 3, None)


def test_what_comes_of_a_generation_proves_that_it_began() -> None:
    state = new(DIAMOND)
    assert sorted(state.apply(done("a")) or ()) == ["b", "c"]
    assert state.apply(BEGIN) is None


def test_an_event_that_was_put_again_by_hand_is_not_the_step() -> None:
    state = new(DIAMOND)
    state.apply(BEGIN)
    state.ids["a"] = "id of a"
    assert state.apply(Arrival(node="a", id="of its copy")) is None
    assert sorted(state.apply(done("a")) or ()) == ["b", "c"]


def test_an_arrival_may_say_the_place_of_its_step() -> None:
    state = new(DIAMOND)
    state.apply(BEGIN)
    place = state.graph.places["a"]
    assert state.step_of(Arrival(place=place)) == "a"
    assert state.apply(Arrival(place=len(state.graph.sequence), id="x")) is None
    assert sorted(state.apply(Arrival(place=place, id="x")) or ()) == ["b", "c"]


def test_cancelled_runs_wait_for_what_runs() -> None:
    state = new(DIAMOND)
    state.apply(BEGIN)
    state.apply(done("a"))
    state.ids.update(b="id of b", c="id of c")
    assert state.apply(Arrival(kind="cancel")) == []
    assert state.status["d"] == State.CANCELLED
    assert sorted(state.open) == ["b", "c"]
    assert not state.over
    assert state.apply(done("b")) == []
    assert state.apply(Arrival(node="c", id="id of c", state=State.CANCELLED)) == []
    assert state.over
    assert state.failed is None


def test_a_replay_knows_what_was_known() -> None:
    """Every set of arrivals that can be recorded, told in any order, leads to the same state."""
    undone = [node(name, *parents, undo=node(f"{name}.undo")) for name, *parents in ("a", "ba", "ca")]
    found = graph(*undone, node("d", "b", "c"), node("e", "d", on_failure="continue"), node("f", "e"))
    random.seed(7)
    for number in range(300):
        live, record = new(found), list[tuple[Arrival, dict[str, str]]]()
        todo: list[Arrival] = [BEGIN]
        for step in itertools.count():
            if not todo:
                break
            arrival = todo.pop(random.randrange(len(todo)))
            ready = live.apply(arrival)
            if ready is None:
                continue
            put = {} if live.cancelled else {name: f"id of {name}" for name in ready}
            live.ids.update(put)
            record.append((arrival, put))
            for name in put:
                ended = dead(name, live.generation) if random.random() < 0.3 else done(name, None, live.generation)
                todo.append(ended)
            if number % 3 == 0 and step == 3:
                todo.append(Arrival(kind="cancel", generation=live.generation))
            again = new(found)
            again.replay(random.sample(record, len(record)))
            assert (again.over, again.cancelled, again.generation) == (live.over, live.cancelled, live.generation)
            assert set(again.open) == set(live.open), (number, record)
            if not live.cancelled:
                assert again.status == live.status
                assert (again.failed, again.ids, again.undone) == (live.failed, live.ids, live.undone)
            if live.over and live.generation < 3 and not todo:
                todo.append(Arrival(kind="begin", generation=live.generation + 1))
        assert live.over
