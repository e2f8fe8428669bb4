"""An opened store: what an app, its queues, claims and handles share."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from eventq.bridge import Bridge
from eventq.clock import SYSTEM, Clock
from eventq.codec import JSONCodec
from eventq.errors import ConfigError, EventqError, PayloadError, UnknownEvent
from eventq.model import Cancel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventq.codec import Codec
    from eventq.storage.base import Storage


class Store:
    """A storage with the codecs, the clock and the threads that one app uses with it."""

    __slots__ = ("_decoders", "bridge", "cancelling", "clock", "codec", "codecs", "storage")

    def __init__(
        self,
        storage: Storage,
        *,
        codec: Codec | None = None,
        codecs: Mapping[str, Codec] | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self.storage: Storage = storage
        self.codec: Codec = codec or JSONCodec()
        self.codecs: Mapping[str, Codec] = codecs or {self.codec.name: self.codec}
        self.clock: Clock = clock
        self.bridge: Bridge = Bridge()
        self.cancelling: dict[str, Callable[[str, str], bool]] = {}
        """How events are cancelled that stand for more than themselves, by their queue: it takes the id and the reason,
        and says whether it was not too late. Raises UnknownEvent or ConfigError for an event that is none of
        these."""
        self._decoders: dict[tuple[str, Any], Callable[[bytes], Any]] = {}

    def codec_named(self, name: str) -> Codec:
        """The codec by which an event says it was written. Raises PayloadError if it is not known here."""
        try:
            return self.codecs[name]
        except KeyError:
            raise PayloadError(
                f"written with the codec {name!r}, which is unknown here; open the app with codecs=[...]"
            ) from None

    def load(self, data: bytes, codec: str, type: Any = Any) -> Any:
        """Decode what was read from the storage. Raises PayloadError if it does not fit the type."""
        try:
            return self._decoder(codec, type)(data)
        except EventqError:
            raise
        except Exception as error:  # own codecs and hooks may raise anything
            raise PayloadError(f"cannot decode it from {codec} as {type}: {error}") from error

    def _decoder(self, codec: str, type: Any) -> Callable[[bytes], Any]:
        """Made once for each codec and type."""
        try:
            return self._decoders[codec, type]
        except KeyError:
            decoder = self._decoders[codec, type] = self.codec_named(codec).decoder(type)
            return decoder
        except TypeError:  # a type that cannot be hashed, as of Annotated with a list
            return self.codec_named(codec).decoder(type)

    def cancel(self, queue: str | None, ids: Sequence[str], reason: str) -> list[str]:
        """Cancel events of a queue, or of whatever queues: a word for each, as `Storage.edit` gives it. What an event
        stands for is cancelled with it: then the word is `"requested"`, for it ends when what runs of it has ended."""
        if queue is not None and queue not in self.cancelling:
            return self.storage.edit(queue, ids, Cancel(reason))
        return [self._cancel(queue, id, reason) for id in ids]

    def _cancel(self, queue: str | None, id: str, reason: str) -> str:
        record = self.storage.get(id) if self.cancelling else None
        cancel = None if record is None else self.cancelling.get(record.queue)
        if cancel is not None:
            with suppress(UnknownEvent, ConfigError):
                return "requested" if cancel(id, reason) else "too late"
        return self.storage.edit(queue, [id], Cancel(reason))[0]
