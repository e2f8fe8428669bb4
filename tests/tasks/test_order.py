"""Several queues of one worker: in strict order, or by weight (W8)."""

from __future__ import annotations

import pytest

from eventq import App, Task
from tasks.running import PATIENCE, burst, working


def noting(app: App, ran: list[str]) -> Task[[str], None]:
    @app.task(name="note")
    def note(queue: str) -> None:
        ran.append(queue)

    return note


def fill(task: Task[[str], None], **counts: int) -> None:
    for queue, count in counts.items():
        for _ in range(count):
            task.using(queue=queue).enqueue(queue)


def test_strict_order(app: App) -> None:
    ran: list[str] = []
    fill(noting(app, ran), low=5, middle=5, high=5)
    burst(app, ["high", "middle", "low"], concurrency=1)
    assert ran == ["high"] * 5 + ["middle"] * 5 + ["low"] * 5


def test_what_comes_later_into_an_earlier_queue_overtakes(app: App) -> None:
    ran: list[str] = []

    @app.task(name="first")
    def first() -> None:
        fill(note, high=3)

    note = noting(app, ran)
    first.using(queue="low").enqueue()
    fill(note, low=200)
    burst(app, ["high", "low"], concurrency=1)
    assert len(ran) == 203
    assert max(index for index, queue in enumerate(ran) if queue == "high") < 150


@pytest.mark.parametrize("weights", [{"mail": 3, "bulk": 1}, {"bulk": 1, "mail": 3}])
def test_by_weight(app: App, weights: dict[str, int]) -> None:
    ran: list[str] = []
    fill(noting(app, ran), mail=60, bulk=60)
    burst(app, weights, concurrency=1)
    assert len(ran) == 120
    for end in (4, 8, 40, 80):
        assert ran[:end].count("mail") == end * 3 // 4, "in each round three and one"


def test_what_one_queue_leaves_others_take(app: App) -> None:
    ran: list[str] = []
    fill(noting(app, ran), bulk=20)
    burst(app, {"mail": 9, "bulk": 1}, concurrency=1)
    assert ran == ["bulk"] * 20


def test_only_its_own_queues(app: App) -> None:
    ran: list[str] = []
    fill(noting(app, ran), mine=2, other=2)
    burst(app, ["mine"])
    assert ran == ["mine"] * 2
    assert app.queue("other").stats().ready == 2


def test_without_a_word_the_queues_of_its_tasks(app: App) -> None:
    def nothing() -> None: ...

    app.task(name="a", queue="y")(nothing)
    app.task(name="b", queue="x")(nothing)
    app.task(name="c")(nothing)
    assert app.worker().queues == {"default": 0, "x": 0, "y": 0}


def test_an_event_in_any_queue_wakes_it(app: App) -> None:
    ran: list[str] = []
    note = noting(app, ran)
    with working(app, ["a", "b", "c"]):
        for queue in ("c", "a", "b"):
            note.using(queue=queue).enqueue(queue).result(PATIENCE)
    assert ran == ["c", "a", "b"]


def test_paused_queues_are_left_alone(app: App) -> None:
    ran: list[str] = []
    fill(noting(app, ran), a=2, b=2)
    app.queue("a").pause()
    burst(app, ["a", "b"])
    assert ran == ["b", "b"]
    app.queue("a").resume()
    burst(app, ["a", "b"])
    assert ran == ["b", "b", "a", "a"]
