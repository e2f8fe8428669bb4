"""The awaitable twin of `app.schedules`, imported when `.aio` is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from typing import Unpack

    from eventq.handle import Handle
    from eventq.schedule import Schedule, ScheduleOptions, Schedules
    from eventq.schedule.definition import Scheduled
    from eventq.task import Task


class AsyncSchedules:
    """The awaitable twin of `Schedules`: `app.schedules.aio`."""

    __slots__ = ("_bridge", "_schedules")

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules
        self._bridge = schedules.store.bridge

    async def all(self) -> list[Schedule]:
        """See `Schedules.all`."""
        return await self._bridge.call(self._schedules.all)

    async def get(self, name: str) -> Schedule | None:
        """See `Schedules.get`."""
        return await self._bridge.call(self._schedules.get, name)

    @overload
    async def add(
        self, name: str, cron: str, task: Task[..., Any], /, *args: Any, **options: Unpack[ScheduleOptions]
    ) -> Schedule: ...
    @overload
    async def add(
        self, name: str, task: Task[..., Any], /, *args: Any, **options: Unpack[ScheduleOptions]
    ) -> Schedule: ...
    @overload
    async def add(self, name: str, cron: str, flow: Scheduled, /, **options: Unpack[ScheduleOptions]) -> Schedule: ...
    @overload
    async def add(self, name: str, flow: Scheduled, /, **options: Unpack[ScheduleOptions]) -> Schedule: ...
    async def add(self, name: str, /, *given: Any, **options: Any) -> Schedule:
        """See `Schedules.add`."""
        return await self._bridge.call(self._schedules.add, name, *given, **options)

    async def keep(self, name: str, what: Scheduled, paused: bool, **options: Unpack[ScheduleOptions]) -> None:
        """See `Schedules.keep`."""
        await self._bridge.call(self._schedules.keep, name, what, paused, **options)

    async def pause(self, name: str) -> None:
        """See `Schedules.pause`."""
        await self._bridge.call(self._schedules.pause, name)

    async def resume(self, name: str) -> None:
        """See `Schedules.resume`."""
        await self._bridge.call(self._schedules.resume, name)

    async def run(self, name: str) -> Handle[Any]:
        """See `Schedules.run`."""
        return await self._bridge.call(self._schedules.run, name)

    async def remove(self, name: str) -> bool:
        """See `Schedules.remove`."""
        return await self._bridge.call(self._schedules.remove, name)

    async def reconcile(self) -> None:
        """See `Schedules.reconcile`."""
        await self._bridge.call(self._schedules.reconcile)
