"""The awaitable twins of `Run`, `NodeHandle` and `Workflows`, imported when `.aio` is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventq.bridge import sleep
from eventq.clock import SYSTEM
from eventq.config import patience
from eventq.handle import Handle
from eventq.workflow.handle import SLICE, Waiting
from eventq.workflow.progress import Following

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventq.bridge import Bridge
    from eventq.errors import EventqError
    from eventq.model import State
    from eventq.workflow import Workflows
    from eventq.workflow.flow import Workflow
    from eventq.workflow.graph import Definition
    from eventq.workflow.handle import NodeHandle, Run
    from eventq.workflow.listing import RunSummary
    from eventq.workflow.progress import Change, RunProgress
    from eventq.workflow.view import View


class AsyncWorkflows:
    """The awaitable twin of `Workflows`: `app.workflows.aio`."""

    __slots__ = ("_bridge", "_workflows")

    def __init__(self, workflows: Workflows) -> None:
        self._workflows = workflows
        self._bridge = workflows.store.bridge

    async def runs(self, state: State | None = None) -> list[Run]:
        """See `Workflows.runs`."""
        return await self._bridge.call(self._workflows.runs, state)

    async def summaries(self, state: State | None = None) -> list[RunSummary]:
        """See `Workflows.summaries`."""
        return await self._bridge.call(self._workflows.summaries, state)


class AsyncWorkflow:
    """The awaitable twin of `Workflow`."""

    __slots__ = ("_bridge", "_workflow")

    def __init__(self, workflow: Workflow) -> None:
        self._workflow = workflow
        self._bridge = workflow.app.store.bridge

    async def start(self, notify: str | None = None, **inputs: Any) -> Run:
        """See `Workflow.start`."""
        return await self._bridge.call(self._workflow.start, notify, **inputs)


class AsyncRun:
    """The awaitable twin of `Run`."""

    __slots__ = ("_bridge", "_run")

    def __init__(self, run: Run, bridge: Bridge) -> None:
        self._run = run
        self._bridge = bridge

    async def result(self, timeout: float | None = None) -> Any:
        """See `Run.result`."""
        over = await self.wait(timeout)
        return await self._bridge.call(self._run._result, over, timeout)  # noqa: SLF001 - its twin

    async def wait(self, timeout: float | None = None) -> bool:
        """See `Run.wait`."""
        wait, began = patience(timeout), SYSTEM.monotonic()
        handle: Handle[Any] = Handle(self._run.store, self._run.id)
        while True:
            left = SLICE if wait is None else min(SLICE, began + wait - SYSTEM.monotonic())
            if await handle.aio.wait(max(0.0, left)):
                return True
            if left < SLICE:
                return False

    async def ready(self) -> bool:
        """See `Run.ready`."""
        return await self._bridge.call(self._run.ready)

    async def status(self) -> str | None:
        """See `Run.status`."""
        return await self._bridge.call(self._run.status)

    async def exception(self) -> EventqError | None:
        """See `Run.exception`."""
        return await self._bridge.call(self._run.exception)

    async def definition(self) -> Definition:
        """See `Run.definition`."""
        return await self._bridge.call(self._run.definition)

    async def node(self, name: str) -> NodeHandle:
        """See `Run.node`."""
        return await self._bridge.call(self._run.node, name)

    async def states(self) -> dict[str, str]:
        """See `Run.states`."""
        return await self._bridge.call(self._run.states)

    async def ids(self) -> dict[str, str]:
        """See `Run.ids`."""
        return await self._bridge.call(self._run.ids)

    async def follow(self, timeout: float | None = None) -> AsyncGenerator[Change, None]:
        """See `Run.follow`."""
        following = Following(self._run)
        for pause in self._run._looks(timeout):  # noqa: SLF001 - its twin
            for change in await self._bridge.call(lambda: list(following.changes())):
                yield change
            if following.over:
                return
            await sleep(pause)

    async def progress(self) -> RunProgress:
        """See `Run.progress`."""
        return await self._bridge.call(self._run.progress)

    async def mermaid(self) -> str:
        """See `Run.mermaid`."""
        return await self._bridge.call(self._run.mermaid)

    async def svg(self) -> str:
        """See `Run.svg`."""
        return await self._bridge.call(self._run.svg)

    async def cancel(self, reason: str = "") -> bool:
        """See `Run.cancel`."""
        return await self._bridge.call(self._run.cancel, reason)

    async def resume(self) -> bool:
        """See `Run.resume`."""
        return await self._bridge.call(self._run.resume)


class AsyncNodeHandle:
    """The awaitable twin of `NodeHandle`."""

    __slots__ = ("_bridge", "_node")

    def __init__(self, node: NodeHandle, bridge: Bridge) -> None:
        self._node = node
        self._bridge = bridge

    async def result(self, timeout: float | None = None) -> Any:
        """See `NodeHandle.result`."""
        view = await self._ended(timeout)
        return await self._bridge.call(self._node._result, view, timeout)  # noqa: SLF001 - its twin

    async def wait(self, timeout: float | None = None) -> bool:
        """See `NodeHandle.wait`."""
        return await self._ended(timeout) is not None

    async def _ended(self, timeout: float | None) -> View | None:
        waiting = Waiting(self._node, timeout)
        while (event := await self._bridge.call(waiting.look)) is not None:
            await Handle(self._node.run.store, event).aio.wait(waiting.left)
            await sleep(waiting.pause())
        return waiting.view

    async def below(self) -> Run | None:
        """See `NodeHandle.below`."""
        return await self._bridge.call(self._node.below)

    async def status(self) -> str:
        """See `NodeHandle.status`."""
        return await self._bridge.call(self._node.status)
