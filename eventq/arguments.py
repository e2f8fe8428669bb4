"""The arguments of a call: checked by the function's signature, as data in an event, and back.

A call is stored as `{"task": "shop.thumbnail", "args": ["cat.png"], "kwargs": {"width": 64}}`. Arguments are converted
by the type hints when the task runs; when it is enqueued the very same is done first, so that what could not run is
refused where it is called, before anything is stored.
"""

from __future__ import annotations

import inspect
import typing
from typing import TYPE_CHECKING, Any

import msgspec
import msgspec.inspect

from eventq.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventq.codec import Codec

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_STREAMS = ("Iterator", "Iterable", "Generator", "AsyncIterator", "AsyncIterable", "AsyncGenerator")


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands in the event of a task: which one, with what."""

    task: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


class Arguments:
    """The parameters of one function, to check and to convert what it is called with.

    `bound` says that the function's first parameter is its context, which callers leave out. Raises TypeError for hints
    that no payload can be converted to.
    """

    __slots__ = (
        "_codec", "_least", "_most", "_name", "_named", "_others", "_positional", "_rest", "returns", "signature",
        "yields",
    )  # fmt: skip

    def __init__(self, function: Callable[..., Any], name: str, codec: Codec, *, bound: bool = False) -> None:
        parameters = list(inspect.signature(function).parameters.values())
        if bound:
            if not parameters or parameters[0].kind not in _POSITIONAL:
                raise TypeError(f"task {name} has bind=True, so its first parameter takes the context; it has none")
            parameters = parameters[1:]
        self._name = name
        self._codec = codec
        self.signature: inspect.Signature = inspect.Signature(parameters)
        """What callers give, without the context."""
        hints = _hints_of(function, name)
        self.returns: Any = Any
        """The type of its result."""
        self.yields: Any = Any
        """The type of what a generator function yields, one by one."""
        self._read_returns(hints.get("return", Any))
        self._positional: list[Any] = []
        self._named: dict[str, Any] = {}
        self._rest: Any = None
        self._others: Any = None
        for parameter in parameters:
            self._read_parameter(parameter, hints.get(parameter.name, Any))
        positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
        required = [parameter for parameter in parameters if parameter.default is parameter.empty]
        only_named = any(each.kind is each.KEYWORD_ONLY for each in required)
        self._most = -1 if only_named else len(positional)
        self._least = sum(parameter.kind in _POSITIONAL for parameter in required)

    def _read_parameter(self, parameter: inspect.Parameter, hint: Any) -> None:
        self._check_hint(hint, f"parameter {parameter.name!r}")
        if parameter.kind is parameter.VAR_POSITIONAL:
            self._rest = hint
        elif parameter.kind is parameter.VAR_KEYWORD:
            self._others = hint
        elif parameter.kind is parameter.KEYWORD_ONLY:
            self._named[parameter.name] = hint
        else:
            self._positional.append(hint)
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                self._named[parameter.name] = hint

    def _read_returns(self, hint: Any) -> None:
        origin, given = typing.get_origin(hint), typing.get_args(hint)
        if getattr(origin, "__name__", "") in _STREAMS and getattr(origin, "__module__", "") == "collections.abc":
            self.yields = given[0] if given else Any
            self.returns = given[2] if len(given) > 2 else Any
        elif hint is not None and hint is not typing.NoReturn:
            self.returns = hint
        self._check_hint(self.returns, "the result")
        self._check_hint(self.yields, "what it yields")

    def _check_hint(self, hint: Any, what: str) -> None:
        try:
            stranger = _stranger(msgspec.inspect.type_info(hint), set())
        except TypeError as error:
            raise TypeError(f"task {self._name}, {what}: {error}; use another hint, or none") from error
        if stranger is not None and not self._codec.converts:
            raise TypeError(
                f"task {self._name}, {what}: {getattr(stranger, '__qualname__', stranger)} cannot be made from "
                f"{self._codec.name}; use plain data, a dataclass or a msgspec.Struct, or a codec with hooks"
            )

    # ------------------------------------------------------------------ enqueueing

    def pack(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """The call as data. Raises TypeError if the function could not be called so, or a value does not fit its hint;
        PayloadError for an argument without a hint that would not come back equal."""
        if kwargs or not self._least <= len(args) <= self._most:
            bound = self.signature.bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        call = Call(self._name, list(args), dict(kwargs))
        data = encode_call(self._codec, call)
        back, named = self._converted(self._codec.decode(data, Call))
        for index, (value, again) in enumerate(zip(args, back, strict=True)):
            hint = self._positional[index] if index < len(self._positional) else self._rest
            if hint is Any and again != value:
                self._refuse(self._parameter(index), value, again)
        for name, value in kwargs.items():
            if self._named.get(name, self._others) is Any and named[name] != value:
                self._refuse(name, value, named[name])
        return data

    def _refuse(self, parameter: str, value: Any, back: Any) -> None:
        raise PayloadError(
            f"{self._name}: argument {parameter!r} is of type {type(value).__name__} and would come back as "
            f"{type(back).__name__}, or different; give the parameter a type hint, or pass plain data"
        )

    def pack_text(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """As `pack`, for arguments typed by a person: `"64"` will do for an int."""
        bound = self.signature.bind(*args, **kwargs)
        back, named = self._converted(Call(self._name, list(bound.args), dict(bound.kwargs)), strict=False)
        return self.pack(back, named)

    # ------------------------------------------------------------------ running

    def unpack(self, call: Call) -> tuple[list[Any], dict[str, Any]]:
        """What to call the function with. Raises TypeError if that cannot be."""
        if call.kwargs or not self._least <= len(call.args) <= self._most:
            self.signature.bind(*call.args, **call.kwargs)
        return self._converted(call)

    def _converted(self, call: Call, strict: bool = True) -> tuple[list[Any], dict[str, Any]]:
        """The arguments by their hints."""
        args = call.args
        known = len(self._positional)
        for index, value in enumerate(args):
            hint = self._positional[index] if index < known else self._rest
            if hint is not Any and hint is not value.__class__:
                args[index] = self._convert(value, hint, index, strict)
        kwargs = call.kwargs
        for name, value in kwargs.items():
            hint = self._named.get(name, self._others)
            if hint is not Any and hint is not value.__class__:
                kwargs[name] = self._convert(value, hint, name, strict)
        return args, kwargs

    def _convert(self, value: Any, hint: Any, which: int | str, strict: bool) -> Any:
        try:
            return self._codec.convert(value, hint, strict=strict)
        except Exception as error:
            name = which if isinstance(which, str) else self._parameter(which)
            raise TypeError(f"{self._name}: argument {name!r}: {error}") from error

    def _parameter(self, index: int) -> str:
        """The name of the parameter that takes a positional argument; beyond the others stands `*rest`."""
        return list(self.signature.parameters)[min(index, len(self._positional))]


def encode_call(codec: Codec, call: Call) -> bytes:
    """A call as data. Raises PayloadError if an argument is nothing that the codec knows."""
    try:
        return codec.encode(call)
    except Exception as error:  # own codecs and hooks may raise anything
        raise PayloadError(
            f"cannot encode the arguments of {call.task} as {codec.name}: {error}; pass plain data, or give the codec "
            "a hook"
        ) from error


def _hints_of(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise TypeError(
            f"the type hints of task {name} cannot be read: {error}; what they name must be imported and defined above "
            "the task, not under TYPE_CHECKING"
        ) from error


def _stranger(info: Any, seen: set[Any]) -> Any:
    """A class somewhere in a type that msgspec cannot make by itself; None if there is none."""
    if isinstance(info, msgspec.inspect.CustomType):
        return info.cls
    cls = getattr(info, "cls", None)
    if cls is not None:
        if cls in seen:
            return None
        seen.add(cls)
    for field in getattr(info, "__struct_fields__", ()):
        value = getattr(info, field)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field):
                found = _stranger(part, seen)
                if found is not None:
                    return found
    return None
