"""The awaitable twin of `app.notifications`, imported when `.aio` is used."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventq.notifications import Notification, Notifications


class AsyncNotifications:
    """The awaitable twin of `Notifications`: `app.notifications.aio`."""

    __slots__ = ("_bridge", "_notifications")

    def __init__(self, notifications: Notifications) -> None:
        self._notifications = notifications
        self._bridge = notifications.store.bridge

    async def put(self, user: str, message: str, /, **data: Any) -> str:
        """See `Notifications.put`."""
        return await self._bridge.call(self._notifications.put, user, message, **data)

    async def count(self, user: str, unread: bool | None = True) -> int:
        """See `Notifications.count`."""
        return await self._bridge.call(self._notifications.count, user, unread)

    async def read(self, user: str, *ids: str) -> int:
        """See `Notifications.read`."""
        return await self._bridge.call(self._notifications.read, user, *ids)

    async def read_all(self, user: str) -> int:
        """See `Notifications.read_all`."""
        return await self._bridge.call(self._notifications.read_all, user)

    async def unread(self, user: str, *ids: str) -> int:
        """See `Notifications.unread`."""
        return await self._bridge.call(self._notifications.unread, user, *ids)

    async def remove(self, user: str, *ids: str) -> int:
        """See `Notifications.remove`."""
        return await self._bridge.call(self._notifications.remove, user, *ids)

    async def prune(self, user: str | None = None) -> int:
        """See `Notifications.prune`."""
        return await self._bridge.call(self._notifications.prune, user)

    async def list(self, user: str, unread: bool | None = None, limit: int = 50) -> builtins.list[Notification]:
        """See `Notifications.list`."""
        return await self._bridge.call(self._notifications.list, user, unread, limit)
