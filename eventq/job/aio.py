"""The awaitable twins of `Job` and `Jobs`, imported when `.aio` is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Unpack

    from eventq.job import Job, JobOptions, JobReport, Jobs, JobStatus
    from eventq.job.record import JobState
    from eventq.workflow import Run


class AsyncJobs:
    """The awaitable twin of `Jobs`: `app.jobs.aio`."""

    __slots__ = ("_bridge", "_jobs")

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._bridge = jobs.store.bridge

    async def get(self, name: str) -> JobStatus | None:
        """See `Jobs.get`."""
        return await self._bridge.call(self._jobs.get, name)

    async def all(self, user: str | None = None) -> list[JobStatus]:
        """See `Jobs.all`."""
        return await self._bridge.call(self._jobs.all, user)

    async def add(self, name: str, stages: Any, **options: Unpack[JobOptions]) -> JobStatus:
        """See `Jobs.add`."""
        return await self._bridge.call(self._jobs.add, name, stages, **options)

    async def enable(self, name: str) -> None:
        """See `Jobs.enable`."""
        await self._bridge.call(self._jobs.enable, name)

    async def disable(self, name: str) -> None:
        """See `Jobs.disable`."""
        await self._bridge.call(self._jobs.disable, name)

    async def remove(self, name: str) -> bool:
        """See `Jobs.remove`."""
        return await self._bridge.call(self._jobs.remove, name)

    async def start(self, name: str, /, **keywords: Any) -> Run:
        """See `Jobs.start`."""
        return await self._bridge.call(lambda: self._jobs.start(name, **keywords))

    async def restart(self, name: str) -> Run:
        """See `Jobs.restart`."""
        return await self._bridge.call(self._jobs.restart, name)

    async def abort(self, name: str, reason: str = "") -> bool:
        """See `Jobs.abort`."""
        return await self._bridge.call(self._jobs.abort, name, reason)

    async def reset(self, name: str) -> bool:
        """See `Jobs.reset`."""
        return await self._bridge.call(self._jobs.reset, name)

    async def reconcile(self) -> None:
        """See `Jobs.reconcile`."""
        await self._bridge.call(self._jobs.reconcile)


class AsyncJob:
    """The awaitable twin of `Job`."""

    __slots__ = ("_bridge", "_job")

    def __init__(self, job: Job) -> None:
        self._job = job
        self._bridge = job.store.bridge

    async def start(self, **keywords: Any) -> Run:
        """See `Job.start`."""
        return await self._bridge.call(lambda: self._job.start(**keywords))

    async def status(self) -> JobState:
        """See `Job.status`."""
        return await self._bridge.call(self._job.status)

    async def report(self) -> JobReport | None:
        """See `Job.report`."""
        return await self._bridge.call(self._job.report)

    async def run(self) -> Run | None:
        """See `Job.run`."""
        return await self._bridge.call(self._job.run)
