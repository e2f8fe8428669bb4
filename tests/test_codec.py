"""Codecs: what comes back equal, what is refused, and what the refusal says. Pins the edges of msgspec."""

from __future__ import annotations

import collections
import dataclasses
import enum
import json
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventq import Codec, ConfigError, JSONCodec, MsgpackCodec, PayloadError
from eventq.codec import JSON, choose, packer

NAN = float("nan")
INFINITY = float("inf")
ZONE = timezone(timedelta(hours=2))
WHEN = datetime(2026, 3, 29, 2, 30, tzinfo=ZONE)


@dataclasses.dataclass
class Order:
    number: int
    note: str = ""


@dataclasses.dataclass
class Invoice:
    number: int
    note: str = ""


class Item(msgspec.Struct):
    sku: str
    price: float = 0.0


class Part(msgspec.Struct):
    sku: str
    price: float = 0.0


class Point(NamedTuple):
    x: int
    y: int


class Size(NamedTuple):
    x: int
    y: int


class Color(enum.Enum):
    RED = "red"


class Shade(str, enum.Enum):  # noqa: UP042 - equal to its bare value on purpose
    RED = "red"


@dataclasses.dataclass(eq=False)
class Identity:
    """Compares by identity, as many classes do."""

    number: int


class Model:
    """Stands for pydantic and its kind: unknown to msgspec, turned into a dict and back by hooks."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and other.name == self.name

    __hash__ = None  # type: ignore[assignment]


def to_dict(obj: Any) -> Any:
    if isinstance(obj, Model):
        return {"name": obj.name}
    raise NotImplementedError(f"cannot encode {type(obj).__name__}")


def from_dict(cls: Any, data: Any) -> Any:
    if cls is Model:
        if not isinstance(data.get("name"), str):
            raise ValueError("a model needs a name")
        return Model(data["name"])
    raise NotImplementedError(f"cannot decode {cls}")


@pytest.fixture(params=[JSONCodec, MsgpackCodec], ids=["json", "msgpack"])
def codec(request: pytest.FixtureRequest) -> Codec:
    made: Codec = request.param()
    return made


# ---------------------------------------------------------------- without a type

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_plain_data_comes_back_equal(payload: Any) -> None:
    for codec in (JSONCodec(), MsgpackCodec()):
        assert codec.decode(packer(codec)(payload)) == payload


@given(plain)
def test_json_is_json(payload: Any) -> None:
    data = JSON.encode(payload)
    assert json.loads(data) == payload
    assert b"\n" not in data, "one event is one line in a file store"


REFUSED_EVERYWHERE: dict[str, Any] = {
    "tuple": (1, 2),
    "tuple inside": {"a": [1, (2, 3)]},
    "set": {1, 2},
    "frozenset": frozenset({1}),
    "decimal": Decimal("1.50"),
    "naive datetime": datetime(2026, 1, 1),  # noqa: DTZ001 - refused on purpose
    "date": WHEN.date(),
    "time delta": timedelta(seconds=3),
    "uuid": UUID(int=7),
    "enum": Color.RED,
    "dataclass": Order(1),
    "struct": Item("a"),
    "path": Path("/tmp"),
    "pure path": PurePosixPath("a"),
    "object": object(),
    "function": len,
    "nan": NAN,
    "nan inside": {"a": [NAN]},
    "surrogate": "\ud800",
    "surrogate key": {"\ud800": 1},
    "complex": 1j,
    "range": range(3),
}


@pytest.mark.parametrize("payload", REFUSED_EVERYWHERE.values(), ids=REFUSED_EVERYWHERE)
def test_what_would_change_is_refused(codec: Codec, payload: Any) -> None:
    with pytest.raises(PayloadError):
        packer(codec)(payload)


REFUSED_BY_JSON: dict[str, Any] = {
    "bytes": b"a",
    "bytearray": bytearray(b"a"),
    "bytes inside": {"a": b"b"},
    "whole-number key": {1: "a"},
    "float key": {1.5: "a"},
    "infinity": INFINITY,
    "aware datetime": WHEN,
}


@pytest.mark.parametrize("payload", REFUSED_BY_JSON.values(), ids=REFUSED_BY_JSON)
def test_what_json_cannot_say_is_refused(payload: Any) -> None:
    with pytest.raises(PayloadError, match="pass type="):
        packer(JSONCodec())(payload)


@pytest.mark.parametrize("payload", REFUSED_BY_JSON.values(), ids=REFUSED_BY_JSON)
def test_msgpack_says_more(payload: Any) -> None:
    codec = MsgpackCodec()
    assert codec.decode(packer(codec)(payload)) == payload


def test_none_and_booleans_are_no_keys_in_json() -> None:
    for key in (None, True):
        with pytest.raises(PayloadError):
            packer(JSONCodec())({key: 1})
        assert MsgpackCodec().decode(packer(MsgpackCodec())({key: 1})) == {key: 1}


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**40])
def test_huge_numbers(number: int) -> None:
    assert JSON.decode(packer(JSON)(number)) == number
    assert type(JSON.decode(packer(JSON)(number))) is int
    if -(2**63) <= number < 2**64:
        assert MsgpackCodec().decode(packer(MsgpackCodec())(number)) == number
    else:
        with pytest.raises(PayloadError):
            packer(MsgpackCodec())(number)


def test_a_list_that_holds_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(PayloadError):
        packer(JSON)(endless)


def test_instances_of_subclasses_that_compare_equal_pass() -> None:
    assert packer(JSON)(Shade.RED) == b'"red"'
    assert packer(JSON)(collections.defaultdict(int, a=1)) == b'{"a":1}'


def test_text_of_another_class_is_refused() -> None:
    class Text(str):
        __slots__ = ()

    with pytest.raises(PayloadError, match="Text"):
        packer(JSON)(Text("a"))


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"x", ["payload", "bytes", "type=bytes"]),
        ({"when": WHEN}, ["payload['when']", "datetime", "str"]),
        ({"a": [1, (2,)]}, ["payload['a'][1]", "tuple", "list"]),
        ({"a": {5: 1}}, ["key", "payload['a']", "int"]),
        (NAN, ["payload", "float", "NoneType"]),
        (Order(3), ["payload", "Order", "dict"]),
    ],
)
def test_the_refusal_says_where_and_what_to_do(payload: Any, words: list[str]) -> None:
    with pytest.raises(PayloadError, match="pass type=") as caught:
        packer(JSON)(payload)
    for word in words:
        assert word in str(caught.value)


def test_the_refusal_does_not_show_the_payload() -> None:
    with pytest.raises(PayloadError) as caught:
        packer(JSON)({"password": ("s3cret",)})
    assert "s3cret" not in str(caught.value)


# ---------------------------------------------------------------- with a type

TYPED: list[tuple[Any, Any]] = [
    (bytes, b"\x00\xff"),
    (float, 1.5),
    (float, 2),
    (int, 7),
    (datetime, WHEN),
    (Decimal, Decimal("1.50")),
    (tuple[int, ...], (1, 2)),
    (set[int], {1, 2}),
    (dict[int, str], {1: "a"}),
    (UUID, UUID(int=7)),
    (Color, Color.RED),
    (Shade, Shade.RED),
    (Order, Order(1, "x")),
    (list[Order], [Order(1), Order(2)]),
    (Item, Item("a", 2)),
    (Point, Point(1, 2)),
    (Identity, Identity(3)),
    (list[Identity], [Identity(3)]),
    (Order | None, None),
    (Order | None, Order(1)),
]


@pytest.mark.parametrize(("cls", "payload"), TYPED, ids=lambda value: str(value)[:30])
def test_a_type_brings_it_back(codec: Codec, cls: Any, payload: Any) -> None:
    back = codec.decoder(cls)(packer(codec, cls)(payload))
    assert isinstance(back, type(payload)) or (type(payload) is int and type(back) is float)
    if "Identity" in str(cls):
        assert repr(back) == repr(payload)
    else:
        assert back == payload


MISTYPED: list[tuple[Any, Any]] = [
    (Order, Invoice(1)),
    (Order, {"number": 1}),
    (Order, Order("one")),  # type: ignore[arg-type]
    (Item, Part("a")),
    (Point, Size(1, 2)),
    (Point, (1, 2)),
    (Shade, "red"),
    (Identity, Order(1)),
    (int, "5"),
    (int, 1.5),
    (int, True),
    (str, 5),
    (bytes, "text"),
    (tuple[int, ...], [1, 2]),
    (list[Order], [Invoice(1)]),
    (Order, None),
]


@pytest.mark.parametrize(("cls", "payload"), MISTYPED, ids=lambda value: str(value)[:30])
def test_another_type_is_refused(codec: Codec, cls: Any, payload: Any) -> None:
    with pytest.raises(PayloadError, match="not a payload of type"):
        packer(codec, cls)(payload)


def test_nan_needs_msgpack_and_a_type() -> None:
    with pytest.raises(PayloadError):
        packer(JSONCodec(), float)(NAN)
    back = MsgpackCodec().decoder(float)(packer(MsgpackCodec(), float)(NAN))
    assert back != back


def test_the_message_of_msgspec_comes_along() -> None:
    with pytest.raises(PayloadError, match=r"Order.*Expected `int`, got `str`.*\$\.number"):
        packer(JSON, Order)(Order("one"))  # type: ignore[arg-type]


# ---------------------------------------------------------------- hooks and own codecs


@pytest.mark.parametrize("make", [JSONCodec, MsgpackCodec])
def test_hooks_bring_own_classes_back(make: Any) -> None:
    codec = make(enc_hook=to_dict, dec_hook=from_dict)
    data = packer(codec, Model)(Model("a"))
    assert codec.decoder(Model)(data) == Model("a")
    assert codec.decode(data, Model) == Model("a")
    with pytest.raises(PayloadError, match="pass type="):
        packer(codec)(Model("a"))
    with pytest.raises(PayloadError, match="a model needs a name"):
        packer(codec, Model)(Model(5))  # type: ignore[arg-type]


class Reversed(Codec):
    name = "reversed"

    def encode(self, obj: Any) -> bytes:
        if not isinstance(obj, str):
            raise KeyError("only text")
        return obj[::-1].encode()

    def decode(self, data: bytes, type: Any = Any) -> Any:
        return data.decode()[::-1]


def test_an_own_codec() -> None:
    chosen, known = choose(Reversed())
    assert known["reversed"] is chosen
    assert {"json", "msgpack"} <= set(known)
    assert chosen.decoder(str)(packer(chosen)("abc")) == "abc"
    with pytest.raises(PayloadError, match="only text"):
        packer(chosen)(5)


def test_an_own_codec_that_loses_something_is_found_out() -> None:
    class Lossy(Reversed):
        def encode(self, obj: Any) -> bytes:
            return super().encode(obj)[1:]

    with pytest.raises(PayloadError, match="would come back"):
        packer(Lossy())("abc")


def test_choosing() -> None:
    assert choose("json")[0].name == "json"
    assert choose("msgpack")[0].name == "msgpack"
    assert choose("reversed", [Reversed()])[0].name == "reversed"
    hooked = JSONCodec(enc_hook=to_dict)
    assert choose("json", [hooked])[0] is hooked


def test_choosing_wrongly() -> None:
    class Nameless(Reversed):
        name = ""

    class Impostor(Reversed):
        name = "json"

    with pytest.raises(ConfigError, match="json, msgpack"):
        choose("yaml")
    with pytest.raises(TypeError, match=r"eventq\.Codec"):
        choose(json)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs a name"):
        choose(Nameless())
    with pytest.raises(ConfigError, match="another name"):
        choose(Impostor())
