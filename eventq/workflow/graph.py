"""The graph of a workflow as plain data: steps, what they wait for, and what they are called with. Computing alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

import msgspec

from eventq.errors import ConfigError
from eventq.workflow.staged import Fill, Staged

OnFailure = Literal["stop", "continue"]

NOTHING = b"null"
FORMAT = 1
MAX_NAME = 200
"""Characters of a step's name, at most."""
DEEPEST = 8
"""Workflows within each other, at most."""
UNDO = ".undo"
"""So ends the name of the step that undoes another."""
COLOURS = {
    "waiting": "#eeeeee",
    "ready": "#cfe2ff",
    "delayed": "#cfe2ff",
    "claimed": "#fff3cd",
    "running": "#fff3cd",
    "completed": "#d1e7dd",
    "dead": "#f8d7da",
    "expired": "#f8d7da",
    "cancelled": "#e2d9f3",
    "skipped": "#f5f5f5",
}


class Ref(msgspec.Struct, frozen=True, array_like=True):
    """A place in the arguments of a call that takes the result of a step."""

    step: str
    path: tuple[str | int, ...]
    """From `{"args": [...], "kwargs": {...}}` down."""


class Edge(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a step waits for beside its arguments; with `when`, it is only run for some results."""

    step: str
    when: tuple[Any, ...] | None = None
    """It fires if the result equals one of these. None: always."""
    unless: bool = False
    """It fires if the result equals none of these."""

    def fires(self, value: Any) -> bool:
        """Whether a result lets the step run."""
        if self.when is None:
            return True
        return any(_same(value, each) for each in self.when) is not self.unless


class Node(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step: a call of a task, what it waits for, and what a put says about its event."""

    name: str
    task: str
    queue: str
    call: msgspec.Raw = msgspec.Raw(NOTHING)
    """The call, if it is written as JSON; else it is in `data`. Where a result belongs, it has null."""
    data: bytes | None = None
    codec: str = "json"
    refs: tuple[Ref, ...] = ()
    inputs: tuple[Ref, ...] = ()
    """Places that take inputs of the workflow; none is left in a run."""
    sub: Definition | None = None
    """Of a step that is a run of another workflow: its definition. The call has its inputs."""
    fills: tuple[Fill, ...] = ()
    """Of a staged job: where templates belong. Each has null in the call."""
    stage: int | None = None
    """Of a staged job: it waits for all steps of the stage before."""
    batch: bool = False
    """Whether its stage is a batch, whose result is the list of theirs."""
    after: tuple[Edge, ...] = ()
    on_failure: OnFailure = "stop"
    undo: Node | None = None
    """What undoes it, if the run fails after it was completed."""
    priority: int = 0
    delay: float | None = None
    """Seconds after it may run."""
    expires: float | None = None
    """Likewise."""
    headers: dict[str, Any] = {}
    limits: dict[str, int] = {}
    rates: dict[str, tuple[int, float]] = {}
    max_attempts: int | None = None
    max_crashes: int | None = None
    keep: float | None = None

    @property
    def payload(self) -> bytes:
        """The call as it is written."""
        return bytes(self.call) if self.data is None else self.data

    @property
    def runs(self) -> str:
        """What it runs, in words: the name of a task, or of a workflow."""
        return self.task if self.sub is None else f"workflow {self.sub.name}"

    @property
    def parents(self) -> list[str]:
        """The steps it waits for, each once."""
        if not self.refs and not self.after:
            return []
        return list(dict.fromkeys([*(each.step for each in self.refs), *(each.step for each in self.after)]))


class Input(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run of a workflow is given when it starts."""

    name: str
    required: bool = False
    default: msgspec.Raw = msgspec.Raw(NOTHING)
    """If the workflow's results are written as JSON; else it is in `data`."""
    data: bytes | None = None


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A workflow as it travels with each of its runs."""

    name: str
    nodes: tuple[Node, ...]
    result: str | tuple[str, ...] | None = None
    """The step whose result is that of the run, or several for a list of theirs. None: that of the only last step, or
    those of the last steps by name."""
    codec: str = "json"
    """How the result of the run is written."""
    inputs: tuple[Input, ...] = ()
    """What a run has to be given; none is left in a run."""
    together: bool = False
    """Whether steps that become ready together may be put together. Not if a queue of theirs has a `maxsize`, which
    might have room for some of them, and never for all. Said when a run is started."""
    staged: Staged | None = None
    """Of a run of a staged job; then each step has a stage, and the result is the list of those of the stages."""
    format: int = FORMAT


class Graph:
    """A definition that was checked, with what is looked up in it. Raises ConfigError for what is no graph."""

    __slots__ = (
        "children", "definition", "edges", "nodes", "order", "parents", "places", "sequence", "stages", "undoes",
    )  # fmt: skip

    def __init__(self, definition: Definition) -> None:
        self.definition: Definition = definition
        self.nodes: dict[str, Node] = {}
        """The steps by name, and what undoes them."""
        self.undoes: dict[str, str] = {}
        """Steps that are undone, by the name of what undoes them."""
        for node in definition.nodes:
            self._add(node)
        self.parents: dict[str, list[str]] = {node.name: node.parents for node in definition.nodes}
        """What each step waits for."""
        self.stages: list[list[str]] = self._staged()
        """The steps of each stage, in order, if it is of a staged job. Those of one share one list of what they wait
        for: it has as many items as they have, not the square."""
        self._check_names()
        self.order: list[str] = self._ordered()
        """All steps, each behind those it waits for."""
        back = [undo.name for name in reversed(self.order) if (undo := self.nodes[name].undo) is not None]
        self.sequence: list[str] = [*self.order, *back]
        """The steps in order, and behind them what undoes them."""
        self.places: dict[str, int] = {name: place for place, name in enumerate(self.sequence)}
        """The place of each in that sequence."""
        self.children: dict[str, list[str]] = {name: [] for name in self.parents}
        """Which steps wait for each."""
        self.edges: dict[tuple[str, str], tuple[Edge, ...]] = {}
        """The conditions between a step and one that waits for it, if there are any."""
        for earlier, names in zip(self.stages, self.stages[1:], strict=False):
            self.children |= dict.fromkeys(earlier, names)
        for name, parents in () if self.stages else self.parents.items():
            for parent in parents:
                self.children[parent].append(name)
        for node in definition.nodes:
            for edge in node.after:
                if edge.when is not None:
                    self.edges[edge.step, node.name] = (*self.edges.get((edge.step, node.name), ()), edge)

    @property
    def last(self) -> list[str]:
        """The steps for which no other waits."""
        return [name for name in self.parents if not self.children[name]]

    @property
    def result(self) -> str | tuple[str, ...] | None:
        """The step whose result is that of a run, or several; None: the last ones, by name."""
        said = tuple(self.parents) if self.stages else self.definition.result
        return self.last[0] if said is None and len(self.last) == 1 else said

    def fires(self, parent: str, child: str, value: Any) -> bool:
        """Whether the result of a step lets one run that waits for it."""
        edges = self.edges.get((parent, child))
        return edges is None or any(edge.fires(value) for edge in edges)

    def _add(self, node: Node) -> None:
        if not node.name or len(node.name) > MAX_NAME:
            raise ConfigError(f"a step's name has 1 to {MAX_NAME} characters, unlike {node.name!r:.80}")
        if node.name in self.nodes:
            raise ConfigError(f"there are two steps {node.name!r}; give one another name")
        self.nodes[node.name] = node
        if node.undo is not None:
            self._add(node.undo)
            self.undoes[node.undo.name] = node.name

    def _staged(self) -> list[list[str]]:
        """The steps by stage; then each waits for those of the stage before."""
        if self.definition.staged is None:
            return []
        stages: list[list[str]] = [[] for _ in self.definition.staged.stages]
        for node in self.definition.nodes:
            if node.stage is None or not 0 <= node.stage < len(stages) or self.parents[node.name] or node.undo:
                raise ConfigError(f"step {node.name!r} of a staged job is of no stage, or waits for more than that")
            stages[node.stage].append(node.name)
            self.parents[node.name] = stages[node.stage - 1] if node.stage else []
        if not all(stages):
            raise ConfigError(f"a stage of {self.definition.name!r} has no steps")
        return stages

    def _check_names(self) -> None:
        if not self.parents:
            raise ConfigError(f"the workflow {self.definition.name!r} has no steps; add one with step(task, ...)")
        waits = {} if self.stages else self.parents | {undo: self.nodes[undo].parents for undo in self.undoes}
        for name, parents in waits.items():
            for parent in parents:
                if parent not in self.parents:
                    raise ConfigError(f"step {name!r} waits for {parent!r}, which is no step of this workflow")
        result = self.definition.result
        for name in () if result is None else (result,) if isinstance(result, str) else result:
            if name not in self.parents:
                raise ConfigError(f"the result is to be that of {name!r}, which is no step of this workflow")

    def _ordered(self) -> list[str]:
        if self.stages:
            return [name for names in self.stages for name in names]
        try:
            return list(TopologicalSorter(self.parents).static_order())
        except CycleError as error:
            way = " -> ".join(reversed(error.args[1]))
            raise ConfigError(f"steps that wait for each other never run: {way}; take out one of these") from error


# ---------------------------------------------------------------- results in their places


def lifted(value: Any, stands_for: Any, path: tuple[str | int, ...], found: list[tuple[Any, Any]]) -> Any:
    """A copy of an argument with None in the place of each step; where those were is added to `found`."""
    if isinstance(value, stands_for):
        found.append((value, path))
        return None
    if isinstance(value, dict):
        return {key: lifted(each, stands_for, (*path, key), found) for key, each in value.items()}
    if isinstance(value, list) or (type(value) is tuple and any(isinstance(each, stands_for) for each in value)):
        return [lifted(each, stands_for, (*path, index), found) for index, each in enumerate(value)]
    return value


def place(args: list[Any], kwargs: dict[str, Any], refs: Sequence[Ref], values: Mapping[str, Any]) -> None:
    """Put results into their places; None for a step that has none."""
    for ref in refs:
        inner: Any = {"args": args, "kwargs": kwargs}
        for key in ref.path[:-1]:
            inner = inner[key]
        inner[ref.path[-1]] = values.get(ref.step)


def _same(value: Any, other: Any) -> bool:
    """Equal as JSON: True is not 1."""
    return bool(value == other) and isinstance(value, bool) is isinstance(other, bool)


# ---------------------------------------------------------------- to and from plain data


def to_dict(definition: Definition) -> dict[str, Any]:
    """The definition as plain data, that JSON can carry."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(definition))
    return plain


def from_dict(data: Mapping[str, Any]) -> Definition:
    """The definition that plain data says. Raises ConfigError for what is none."""
    try:
        definition = msgspec.json.decode(msgspec.json.encode(data), type=Definition)
    except (TypeError, RecursionError, msgspec.MsgspecError) as error:
        raise ConfigError(f"this is no workflow: {error}; to_dict() gives one") from error
    if definition.format != FORMAT:
        raise ConfigError(f"a workflow of format {definition.format}; this version of eventq reads {FORMAT}")
    if definition.staged is not None:
        raise ConfigError(f"this is a run of the job {definition.staged.job!r}; app.jobs.start() starts one")
    return checked(definition).definition


def checked(definition: Definition, depth: int = 1) -> Graph:
    """The graph of a definition; those within it were checked as well. Raises ConfigError."""
    if depth > DEEPEST:
        raise ConfigError(f"workflow {definition.name!r} stands within {depth - 1} others; at most {DEEPEST - 1} may")
    inputs = {each.name for each in definition.inputs}
    graph = Graph(definition)
    for node in graph.nodes.values():
        for ref in node.inputs:
            if ref.step not in inputs:
                raise ConfigError(f"step {node.name!r} takes {ref.step!r}, which is no input of {definition.name!r}")
        if node.sub is not None:
            checked(node.sub, depth + 1)
    return graph


# ---------------------------------------------------------------- drawing


def mermaid(graph: Graph, states: Mapping[str, str] | None = None) -> str:
    """The graph as Mermaid text, which many pages draw; with the states of a run, coloured by them."""
    states = states or {}
    shown = [name for name in graph.nodes if name in graph.parents or name in states]
    numbers = {name: f"n{number}" for number, name in enumerate(shown)}
    lines = ["flowchart TD"]
    for name, number in numbers.items():
        state = states.get(name)
        left, right = ("[[", "]]") if graph.nodes[name].sub is not None else ("[", "]")
        label = f'{number}{left}"{_escaped(name) if state is None else f"{_escaped(name)}<br/>{state}"}"{right}'
        lines.append(f"    {label}" if state is None else f"    {label}:::{state}")
    for name, parents in graph.parents.items():
        lines += [f"    {numbers[each]} {_arrow(graph, each, name)} {numbers[name]}" for each in parents]
    lines += [f"    {numbers[of]} -.-> {numbers[undo]}" for undo, of in graph.undoes.items() if undo in numbers]
    used = [state for state in COLOURS if state in states.values()]
    lines += [f"    classDef {state} fill:{COLOURS[state]},stroke:#666" for state in used]
    return "\n".join(lines) + "\n"


def _arrow(graph: Graph, parent: str, child: str) -> str:
    edges = graph.edges.get((parent, child))
    return "-->" if edges is None else f'-->|"{_escaped(words_of(edges))}"|'


def words_of(edges: Sequence[Edge]) -> str:
    """For which results these edges fire, in words."""
    words = []
    for edge in edges:
        values = ", ".join(
            each if isinstance(each, str) else msgspec.json.encode(each).decode() for each in edge.when or ()
        )
        words.append("otherwise" if edge.unless else values)
    return " or ".join(words)


def _escaped(text: str) -> str:
    """Text as it may stand within quotes in Mermaid."""
    codes = {'"': "#quot;", "#": "#35;", "<": "#lt;", ">": "#gt;", "\n": " "}
    return "".join(codes.get(each, each) for each in text)
