"""Arguments: checked where the task is called, converted where it runs (W3)."""

from __future__ import annotations

import dataclasses
import json
from collections import namedtuple
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import msgspec
import pytest

from eventq import App, PayloadError
from eventq.arguments import Arguments
from eventq.codec import JSON
from eventq.model import PutOptions, State
from tasks.running import burst

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.conftest import OpenApp


@dataclasses.dataclass
class Order:
    number: int
    tags: list[str] = dataclasses.field(default_factory=list)


class Point(msgspec.Struct):
    x: float
    y: float = 0.0


class Colour(Enum):
    RED = "red"


Pair = namedtuple("Pair", "a b")


def charge(
    order: Order, amount: float = 1.0, *, currency: Literal["eur", "usd"] = "eur", note: str | None = None
) -> str:
    return f"{order.number} {amount} {currency} {note}"


def total(first: int, /, *rest: int, **named: int) -> int:
    return first + sum(rest) + sum(named.values())


def plain(value, other=None):  # type: ignore[no-untyped-def] # that it has no hints is the point
    return value


def arguments_of(function: Any, **options: Any) -> Arguments:
    return Arguments(function, function.__qualname__, JSON, **options)


# ---------------------------------------------------------------- refused where it is called


@pytest.mark.parametrize(
    ("args", "kwargs", "match"),
    [
        ((), {}, "order"),
        (({"number": 1}, 1.0, "eur"), {}, "too many"),
        (({"number": 1},), {"colour": "red"}, "colour"),
        (({"number": 1},), {"order": {"number": 1}}, "multiple values"),
        (({"number": "1"},), {}, "int"),
        (({},), {}, "number"),
        (([1],), {}, "order"),
        (({"number": 1}, "2.5"), {}, "amount"),
        (({"number": 1}, 2.5), {"currency": "gbp"}, "currency"),
        (({"number": 1}, 2.5), {"note": 5}, "note"),
    ],
)
def test_a_wrong_call_is_a_type_error_and_nothing_is_stored(app: App, args: Any, kwargs: Any, match: str) -> None:
    task = app.task(name="charge")(charge)
    with pytest.raises(TypeError, match=match):
        task.enqueue(*args, **kwargs)
    assert app.queues() == []


def test_the_error_names_the_task_and_the_parameter(app: App) -> None:
    task = app.task(name="total")(total)
    with pytest.raises(TypeError, match=r"total: argument 'rest'"):
        task.enqueue(1, 2, "3")
    with pytest.raises(TypeError, match=r"total: argument 'extra'"):
        task.enqueue(1, extra="3")


@pytest.mark.parametrize("value", [(1, 2), {1, 2}, {1: 2}, Pair(1, 2), Decimal(1), float("nan"), Order(1)])
def test_without_a_hint_only_what_comes_back_equal_is_taken(app: App, value: Any) -> None:
    task = app.task(name="plain")(plain)
    for call in (lambda: task.enqueue(value), lambda: task.enqueue(1, other=value)):
        with pytest.raises(PayloadError, match=r"plain: argument|cannot encode"):
            call()
    assert app.queues() == []


@pytest.mark.parametrize("value", [object(), lambda: 1, 1j, open])
def test_what_no_codec_knows_is_refused(app: App, value: Any) -> None:
    task = app.task(name="plain")(plain)
    with pytest.raises(PayloadError, match="plain data"):
        task.enqueue(value)
    assert app.queues() == []


# ---------------------------------------------------------------- converted where it runs


def test_arguments_come_as_their_hints_say(app: App) -> None:
    seen: list[Any] = []

    @app.task(name="look")
    def look(
        order: Order, point: Point, when: datetime, day: date, id: UUID, colour: Colour, price: Decimal,
        pair: tuple[int, str], several: set[int], data: bytes, orders: dict[str, Order], maybe: Order | None = None,
    ) -> None:  # fmt: skip
        seen.extend([order, point, when, day, id, colour, price, pair, several, data, orders, maybe])

    given = [
        Order(1, ["a"]), Point(1.5), datetime(2026, 3, 1, 12, tzinfo=UTC), date(2026, 3, 1),
        UUID("12345678123456781234567812345678"), Colour.RED, Decimal("1.10"), (1, "b"), {1, 2}, b"\x00\xff",
        {"x": Order(2)}, Order(3),
    ]  # fmt: skip
    look.enqueue(*given)
    burst(app)
    assert seen == given
    assert [type(value) for value in seen] == [type(value) for value in given]


def test_plain_data_is_converted_too(app: App) -> None:
    seen: list[Any] = []

    @app.task(name="look")
    def look(order: Order, *, more: list[Order]) -> None:
        seen.extend([order, more])

    look.enqueue({"number": 5}, more=[{"number": 6, "tags": ["x"]}])  # type: ignore[arg-type, list-item]
    burst(app)
    assert seen == [Order(5), [Order(6, ["x"])]]


def test_any_kind_of_parameter(app: App) -> None:
    task = app.task(name="total")(total)
    handles = [task.enqueue(1), task.enqueue(1, 2, 3), task.enqueue(1, named=2, first=5)]
    burst(app)
    assert [handle.result(0) for handle in handles] == [1, 6, 8]


def test_defaults_are_those_of_the_function_that_runs(app: App, open_app: OpenApp) -> None:
    """They are not stored: a worker with newer code has newer defaults."""
    app.task(name="add")(total)
    handle = app.tasks["add"].enqueue(1)
    newer = open_app()

    @newer.task(name="add")
    def add(first: int, second: int = 41) -> int:
        return first + second

    burst(newer)
    assert handle.result(0) == 42


def test_later_changes_of_an_argument_have_no_effect(app: App) -> None:
    task = app.task(name="plain")(plain)
    value = {"list": [1]}
    handle = task.enqueue(value)
    value["list"].append(2)
    burst(app)
    assert handle.result(0) == {"list": [1]}


def test_large_arguments(app: App) -> None:
    task = app.task(name="plain")(length_of)
    text = "x" * 3_000_000
    handle = task.enqueue(text)
    burst(app)
    assert handle.result(0) == len(text)


def length_of(text: str) -> int:
    return len(text)


def test_with_another_codec(open_app: OpenApp) -> None:
    app = open_app(codec="msgpack")

    @app.task(name="both")
    def both(data: bytes, order: Order) -> tuple[bytes, Order]:
        return data[::-1], order

    handle = both.enqueue(b"ab", Order(1))
    burst(app)
    assert handle.result(0) == (b"ba", Order(1))


# ---------------------------------------------------------------- results


def test_the_result_comes_as_the_hint_says(app: App) -> None:
    @app.task(name="make")
    def make(number: int) -> Order:
        return Order(number)

    handle = make.enqueue(4)
    burst(app)
    assert handle.result(0) == Order(4)
    assert app.handle(handle.id).result(0) == {"number": 4, "tags": []}
    assert app.handle(handle.id, Order).result(0) == Order(4)


@pytest.mark.parametrize("value", [(1, 2), object(), {1, 2}])
def test_a_result_that_cannot_be_kept_fails_the_run(app: App, value: Any) -> None:
    @app.task(name="make", max_attempts=1)
    def make() -> Any:
        return value

    handle = make.enqueue()
    burst(app)
    error = handle.exception()
    assert error is not None
    assert "PayloadError" in str(error)


def test_a_result_that_does_not_fit_its_hint_fails_the_run(app: App) -> None:
    @app.task(name="make", max_attempts=1)
    def make() -> int:
        return "no number"  # type: ignore[return-value]

    handle = make.enqueue()
    burst(app)
    assert handle.status() is State.DEAD


def test_a_result_that_nobody_wants_is_not_looked_at(app: App) -> None:
    ran = []

    @app.task(name="make", result=False)
    def make() -> Any:
        ran.append(1)
        return object()

    handle = make.enqueue()
    burst(app)
    assert (ran, handle.status()) == ([1], None)


# ---------------------------------------------------------------- what is stored


def test_the_event_is_readable(app: App) -> None:
    task = app.task(name="shop.charge")(charge)
    record = app.get(task.enqueue(Order(1), currency="usd").id)
    assert record is not None
    assert json.loads(record.payload) == {
        "task": "shop.charge", "args": [{"number": 1, "tags": []}], "kwargs": {"currency": "usd"}
    }  # fmt: skip
    record = app.get(app.task(name="none")(_nothing).enqueue().id)
    assert record is not None
    assert json.loads(record.payload) == {"task": "none"}


def _nothing() -> None:
    return None


@pytest.mark.parametrize(
    "payload",
    [
        {"task": "charge"},
        {"task": "charge", "args": ["no order"]},
        {"task": "charge", "args": [{"number": 1}], "kwargs": {"colour": 1}},
        {"task": "charge", "args": "text"},
        {"no": "call"},
        [],
        5,
    ],
)
def test_an_event_that_fits_no_call_is_a_dead_letter_and_the_worker_goes_on(app: App, payload: Any) -> None:
    task = app.task(name="charge")(charge)
    bad = app.store.storage.put("default", [json.dumps(payload).encode()], PutOptions())[0]
    good = task.enqueue(Order(1))
    burst(app)
    record = app.get(bad)
    assert record is not None
    assert record.state is State.DEAD
    assert record.failure is not None
    assert record.failure.type in ("TypeError", "eventq.errors.PayloadError")
    assert good.result(0) == "1 1.0 eur None"


# ---------------------------------------------------------------- hints


class Strange:
    pass


def test_a_hint_that_nothing_converts_to_is_refused_at_once(app: App) -> None:
    def takes(value: Strange) -> None: ...
    def gives() -> Strange: ...
    def nested(value: dict[str, list[Strange]]) -> None: ...

    for function, match in [(takes, "'value'"), (gives, "the result"), (nested, "Strange")]:
        with pytest.raises(TypeError, match=match):
            app.task(name="t")(function)
    assert app.tasks == {}


def test_a_hint_that_cannot_be_read_is_refused_with_the_reason(app: App) -> None:
    def takes(value: Path) -> None: ...

    with pytest.raises(TypeError, match="TYPE_CHECKING"):
        app.task(name="t")(takes)


def test_typed_by_a_person() -> None:
    arguments = arguments_of(charge)
    packed = arguments.pack_text([{"number": "1"}], {"amount": "2.5"})
    assert json.loads(packed)["args"] == [{"number": 1, "tags": []}, 2.5]
    with pytest.raises(TypeError, match="'amount'"):
        arguments.pack_text([{"number": "1"}], {"amount": "much"})
    with pytest.raises(TypeError, match="order"):
        arguments.pack_text([], {})


def test_what_a_call_may_look_like() -> None:
    assert str(arguments_of(total).signature) == "(first: 'int', /, *rest: 'int', **named: 'int')"
    assert str(arguments_of(plain, bound=True).signature) == "(other=None)"
    with pytest.raises(TypeError, match="bind=True"):
        arguments_of(_nothing, bound=True)
