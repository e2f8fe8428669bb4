"""A queue's `settings.json`: only what differs from the defaults, replaced as a whole."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from eventq.config import changed
from eventq.errors import StorageError
from eventq.model import Settings
from eventq.storage.file import disk
from eventq.storage.file.drafts import Drafts
from eventq.storage.file.layout import QueuePaths

log: logging.Logger = logging.getLogger("eventq.storage")

MAX_SETTINGS_BYTES = 64 << 10


class SettingsFile:
    """Reads and replaces one queue's settings."""

    def __init__(self, paths: QueuePaths) -> None:
        self._paths = paths
        self._complained = False

    def read(self) -> Settings:
        """The settings as stored; defaults where nothing is stored or readable."""
        try:
            data = disk.read_file(self._paths.settings, MAX_SETTINGS_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return Settings()
        except OSError as error:
            if not disk.is_wrong_kind(error):
                raise  # the defaults would undo a pause
            return self._defaults(error)
        try:
            return msgspec.json.decode(data, type=Settings)
        except msgspec.MsgspecError as error:
            return self._defaults(error)

    def _defaults(self, error: Exception) -> Settings:
        if not self._complained:
            log.error("%s cannot be read, so the defaults hold: %s", self._paths.settings, error)
            self._complained = True
        return Settings()

    def current(self, now: float) -> Settings:
        """The settings as they hold at an instant: a timed pause may be over."""
        settings = self.read()
        if settings.paused and settings.paused_until is not None and now >= settings.paused_until:
            return msgspec.structs.replace(settings, paused=False, paused_until=None)
        return settings

    def write(self, changes: dict[str, Any], drafts: Drafts, name: str) -> Settings:
        """Store changes; last writer wins. Raises ConfigError for unknown names and wrong values."""
        settings = changed(self.read(), changes)
        draft = drafts.named(name, msgspec.json.encode(settings))
        try:
            drafts.publish(draft, self._paths.root, "settings.json")
        except StorageError:
            drafts.drop(draft)
            raise
        disk.close(draft.fd)
        return settings
