"""How payloads and values become bytes: JSON by default, msgpack, or your own.

A codec is chosen per app (`App(codec=...)`) and travels with each event by its name; readers find it by that name, so
events written with one codec are read by an app that writes with another.

Whatever is put must come back equal. JSON has no bytes, tuples, sets or datetimes: without a type, such a payload would
silently come back as something else. It is refused instead (`PayloadError`), and the error says what to do: give the
queue a type (`app.queue("orders", type=Order)`), which tells the reader what to make of the bytes.
"""

from __future__ import annotations

import abc
import functools
from typing import TYPE_CHECKING, Any

import msgspec

from eventq.errors import ConfigError, PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Codec(abc.ABC):
    """Turns objects into bytes and back. Subclass it for a format of your own: `App(codec=YAMLCodec())`.

    The name travels with each event, so it must be the same in every process that reads them, for as long as they are
    kept. Methods may raise anything; it reaches the user as a `PayloadError`.
    """

    name: str
    """How events name it. `json` and `msgpack` are taken."""

    @abc.abstractmethod
    def encode(self, obj: Any) -> bytes:
        """The object as bytes."""

    @abc.abstractmethod
    def decode(self, data: bytes, type: Any = Any) -> Any:
        """The object again, as an instance of `type` if one is given."""

    def decoder(self, type: Any = Any) -> Callable[[bytes], Any]:
        """`decode` for one type, made once for many events.

        A format that can prepare itself for a type overrides it, together with `decode`.
        """
        return functools.partial(self.decode, type=type)

    @property
    def converts(self) -> bool:
        """Whether it makes classes that msgspec does not know; else a task with such a type hint is refused."""
        return False

    def convert(self, obj: Any, type: Any, *, strict: bool = True) -> Any:
        """What was decoded without a type, as an instance of one; without `strict`, text will do for a number."""
        return msgspec.convert(obj, type, strict=strict, str_keys=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'name', '?')!r}>"


class MsgspecCodec(Codec):
    """What the two formats of msgspec have in common; use `JSONCodec` or `MsgpackCodec`.

    `enc_hook(obj)` turns an object that msgspec does not know into one it does; `dec_hook(type, obj)` is the way back.
    With them, classes such as pydantic models serve as a queue's type.
    """

    _format: Any

    def __init__(
        self,
        *,
        enc_hook: Callable[[Any], Any] | None = None,
        dec_hook: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self._dec_hook = dec_hook
        self._untyped = self._format.Decoder().decode
        self._encode = self._format.Encoder(enc_hook=enc_hook).encode

    def encode(self, obj: Any) -> bytes:
        data: bytes = self._encode(obj)
        return data

    def decode(self, data: bytes, type: Any = Any) -> Any:
        return self.decoder(type)(data)

    def decoder(self, type: Any = Any) -> Callable[[bytes], Any]:
        decode: Callable[[bytes], Any] = self._untyped
        return decode if type is Any else self._format.Decoder(type, dec_hook=self._dec_hook).decode

    @property
    def converts(self) -> bool:
        return self._dec_hook is not None

    def convert(self, obj: Any, type: Any, *, strict: bool = True) -> Any:
        return msgspec.convert(obj, type, strict=strict, str_keys=True, dec_hook=self._dec_hook)


class JSONCodec(MsgspecCodec):
    """JSON, by msgspec: readable in the store, by every language, and quick."""

    name = "json"
    _format = msgspec.json


class MsgpackCodec(MsgspecCodec):
    """MessagePack, by msgspec: smaller, and knows bytes, aware datetimes and keys that are not text."""

    name = "msgpack"
    _format = msgspec.msgpack


JSON = JSONCodec()
"""Without hooks: for headers, named claims and notes, whatever the app's codec is."""

BUILT_IN: dict[str, type[Codec]] = {"json": JSONCodec, "msgpack": MsgpackCodec}


def choose(codec: str | Codec, others: Iterable[Codec] = ()) -> tuple[Codec, dict[str, Codec]]:
    """The codec that an app writes with, and all that it can read, by name. Raises ConfigError, TypeError."""
    known: dict[str, Codec] = {name: make() for name, make in BUILT_IN.items()}
    own = [*others] if isinstance(codec, str) else [*others, codec]
    for each in own:
        _check(each)
        known[each.name] = each
    if not isinstance(codec, str):
        return codec, known
    if codec not in known:
        raise ConfigError(f"no codec {codec!r}; write one of {', '.join(sorted(known))}, or give a Codec object")
    return known[codec], known


def _check(codec: Codec) -> None:
    if not isinstance(codec, Codec):
        raise TypeError(f"a codec is a name or an instance of eventq.Codec, not {codec!r}")
    name = getattr(codec, "name", None)
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{type(codec).__name__} needs a name: the text by which events say how they were written")
    expected = BUILT_IN.get(name)
    if expected is not None and not isinstance(codec, expected):
        raise ConfigError(f"the codec name {name!r} means {expected.__name__}; give yours another name")


# ---------------------------------------------------------------- encode, and prove that it comes back


def packer(codec: Codec, type: Any = Any) -> Callable[[Any], bytes]:
    """A function that encodes payloads of one type, and raises PayloadError for what would not come back equal.

    Proof is by doing: each payload is decoded again and compared. That costs 0.3 to 0.6 us for a small dict, no more
    than looking at the types of its values would, and nothing is forgotten.
    """
    encode, decode = codec.encode, codec.decoder(type)
    if type is not Any:
        return functools.partial(_pack_typed, codec, type, encode, decode)

    def pack(obj: Any) -> bytes:
        try:
            data = encode(obj)
            back = decode(data)
            if back == obj:
                return data
        except Exception as error:  # own codecs, hooks and __eq__ may raise anything
            raise PayloadError(_cannot_encode(codec, obj, error)) from error
        raise PayloadError(
            f"{_difference('payload', obj, back)} after {codec.name}; pass type= to app.queue(), so that "
            f"readers know what to make of it{_hint(obj)}, or put plain data"
        )

    return pack


def _pack_typed(
    codec: Codec, type: Any, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any], obj: Any
) -> bytes:
    try:
        data = encode(obj)
    except Exception as error:  # own codecs and hooks may raise anything
        raise PayloadError(_cannot_encode(codec, obj, error)) from error
    try:
        back = decode(data)
        same_class = isinstance(obj, back.__class__) or (back.__class__ is float and obj.__class__ is int)
        if same_class and (back == obj or _beyond_comparing(obj, back, decode(data))):
            return data
    except Exception as error:  # so may hooks and __eq__
        raise PayloadError(f"not a payload of type {_name(type)}: {error}") from error
    if not same_class:  # equal or not: a named tuple or an enum equals its bare value, and another's
        found = f"it is of type {_name(obj.__class__)}"
        raise PayloadError(f"not a payload of type {_name(type)}: {found}, not {_name(back.__class__)}")
    raise PayloadError(f"not a payload of type {_name(type)}: {_difference('payload', obj, back)}")


def _beyond_comparing(obj: Any, back: Any, again: Any) -> bool:
    """Whether objects of this class differ even from their own copies, as NaN does, and what compares by identity.

    Two decodings of the same bytes tell. Then the class, and a decoding without complaint, must do.
    """
    return obj.__class__ is back.__class__ and bool(again != back)


def _cannot_encode(codec: Codec, obj: Any, error: Exception) -> str:
    what = f"cannot encode this {type(obj).__name__} as {codec.name}: {error}"
    return f"{what}; put plain data, or give the codec a hook"


def _name(type: Any) -> str:
    return getattr(type, "__qualname__", None) or str(type)


def _hint(obj: Any) -> str:
    return " (type=bytes for bytes)" if isinstance(obj, bytes | bytearray | memoryview) else ""


def _difference(where: str, obj: Any, back: Any) -> str:
    """The first place where a payload and its decoding differ. Types only: values may be secret."""
    if isinstance(obj, dict) and isinstance(back, dict):
        for key, value in obj.items():
            if key not in back:
                return f"a key of {where} is of type {type(key).__name__}, which would become text"
            if not _equal(value, back[key]):
                return _difference(f"{where}[{key!r}]", value, back[key])
    elif isinstance(obj, list) and isinstance(back, list) and len(obj) == len(back):
        for index, (value, other) in enumerate(zip(obj, back, strict=True)):
            if not _equal(value, other):
                return _difference(f"{where}[{index}]", value, other)
    if type(obj) is type(back):
        return f"{where} would come back as a different {type(obj).__name__}"
    return f"{where} is of type {type(obj).__name__} and would come back as {type(back).__name__}"


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - an __eq__ that raises is as good as a difference
        return False
