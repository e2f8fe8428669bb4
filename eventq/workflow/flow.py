"""A workflow as it is written: steps that are added one by one, and passed to each other as arguments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from eventq.arguments import Call, encode_call
from eventq.codec import packer
from eventq.config import text
from eventq.errors import ConfigError, PayloadError
from eventq.task import Task
from eventq.workflow.graph import (
    NOTHING,
    UNDO,
    Definition,
    Edge,
    Graph,
    Input,
    Node,
    Ref,
    checked,
    lifted,
    mermaid,
    to_dict,
)
from eventq.workflow.inbox import QUEUE, TASK, run_fields
from eventq.workflow.inputs import bound, check_names

if TYPE_CHECKING:
    from typing import Self

    from eventq.app import App
    from eventq.arguments import Arguments
    from eventq.workflow.aio import AsyncWorkflow
    from eventq.workflow.graph import OnFailure
    from eventq.workflow.handle import Run

NOT_ITS_OWN = ("key", "unique", "if_exists", "throttle", "debounce", "debounce_max", "at")
"""Options of the task's calls that a workflow says itself: each step has the key of its run."""

REQUIRED: Any = object()
"""The default of an input that has none."""
TAKEN = ("notify",)
"""What `start` takes beside inputs."""


class Placeholder:
    """An input of a workflow; made by `Workflow.input`. It stands among the arguments of steps for what a run is given
    when it starts."""

    __slots__ = ("default", "flow", "name")

    def __init__(self, flow: Workflow, name: str, default: Any) -> None:
        self.flow: Workflow = flow
        self.name: str = name
        """What it is called in `start`."""
        self.default: Any = default
        """What it is if nothing is given."""

    def __repr__(self) -> str:
        return f"<Placeholder {self.name!r} of {self.flow.name!r}>"


class Step:
    """A step of a workflow; made by `Workflow.step`. Passed to another step, it is that one's dependency, and its
    result takes its place."""

    __slots__ = ("_after", "_call", "_inputs", "_name", "_on_failure", "_put", "_refs", "_undo", "flow", "task")

    def __init__(
        self, flow: Workflow, task: Task[Any, Any] | Workflow, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        if not isinstance(task, Task | Workflow):
            raise TypeError(f"a step runs a task, as @app.task makes it, or a workflow, not {task!r:.80}")
        if task.app is not flow.app:
            raise ConfigError(f"{task!r} belongs to another app than the workflow")
        self.flow: Workflow = flow
        self.task: Task[Any, Any] | Workflow = task
        """What it runs."""
        found: list[tuple[Any, tuple[str | int, ...]]] = []
        if isinstance(task, Task):
            self._put, self._call = _put_fields(task), packed(task, args, kwargs, found)
        else:
            self._put, self._call = _sub_fields(task), _packed_inputs(task, args, kwargs, found)
        self._refs = [(flow._own(each), path) for each, path in found if isinstance(each, Step)]  # noqa: SLF001 - its own
        self._inputs = [(flow._own_input(each), path) for each, path in found if isinstance(each, Placeholder)]  # noqa: SLF001
        self._after: list[tuple[Step, tuple[Any, ...] | None, bool]] = []
        self._name: str | None = None
        self._on_failure: OnFailure = "stop"
        self._undo: Step | None = None

    @property
    def name(self) -> str:
        """Its name in the workflow: the one it was given, or the last part of its task's, with a number if several
        steps have that."""
        return self.flow._names()[self]  # noqa: SLF001 - its own workflow

    def named(self, name: str) -> Self:
        """Give it a name of its own. Returns the step, as the others do."""
        self._name = text("the name of a step", name)
        return self

    def after(self, *steps: Step) -> Self:
        """Wait for steps whose results it does not take."""
        self._after += [(self.flow._own(step), None, False) for step in steps]  # noqa: SLF001
        return self

    def route(self, ways: Mapping[Any, Step | Iterable[Step]], otherwise: Step | Iterable[Step] = ()) -> Self:
        """Let the result choose which steps run: `check.route({"big": split, "small": [copy, note]}, otherwise=fail)`.

        Each of these runs only if the result equals its key. A step that waits for several runs if one of them lets it;
        what takes the result of a step that was skipped gets None. Raises TypeError for a key that no result can be:
        it is text, a number, a boolean or None.
        """
        if not isinstance(ways, Mapping):
            raise TypeError(f"route() takes a dict of steps by result, not {type(ways).__name__}")
        for value, steps in ways.items():
            if value is not None and not isinstance(value, str | int | float):
                raise TypeError(f"route({{{value!r}: ...}}): a key is text, a number, a boolean or None")
            for step in _several(steps):
                self.flow._own(step)._after.append((self, (value,), False))  # noqa: SLF001
        for step in _several(otherwise):
            self.flow._own(step)._after.append((self, tuple(ways), True))  # noqa: SLF001
        return self

    def on_failure(self, policy: OnFailure) -> Self:
        """What happens when it has failed for good, its task's retries included, or ended expired or cancelled:
        `"stop"` (unless said), the steps that wait for it never run, all others do, and the run fails; `"continue"`,
        those that take its result get None, and the run does not fail."""
        if policy not in ("stop", "continue"):
            raise ConfigError(f"on_failure({policy!r}); write 'stop' or 'continue'")
        self._on_failure = policy
        return self

    def undo_by(self, task: Task[..., Any], *args: Any, **kwargs: Any) -> Self:
        """What undoes it: a task that is run if the run fails after this step was completed. The last completed step is
        undone first, one after the other, when nothing else of the run goes on. Steps among the arguments, this one
        included, stand for their results."""
        self._undo = Step(self.flow, task, args, kwargs)
        return self

    def __repr__(self) -> str:
        return f"<Step {self.name!r} of {self.flow.name!r}>"

    def node(self, names: Mapping[Step, str], name: str) -> Node:
        """The step as plain data."""
        plain = self._put["codec"] == "json"
        return Node(
            name=name,
            task=self.task.name if isinstance(self.task, Task) else TASK,
            call=msgspec.Raw(self._call if plain else NOTHING),
            data=None if plain else self._call,
            refs=tuple(Ref(names[step], path) for step, path in self._refs),
            inputs=tuple(Ref(each.name, path) for each, path in self._inputs),
            after=tuple(Edge(names[step], when, unless) for step, when, unless in self._after),
            on_failure=self._on_failure,
            undo=None if self._undo is None else self._undo.node(names, name + UNDO),
            **self._put,
        )


class Workflow:
    """A graph of steps, to be run any number of times; made by `app.workflow(name)`. For one thread at a time.

    A run takes the definition along: what is changed here afterwards concerns the runs that are started then.
    """

    __slots__ = ("_given", "_inputs", "_result", "_steps", "app", "name")

    def __init__(self, app: App, name: str, given: Definition | None = None) -> None:
        self.app: App = app
        """The app whose tasks it runs."""
        self.name: str = text("the name of a workflow", name)
        self._given = given
        self._steps: list[Step] = []
        self._inputs: dict[str, Placeholder] = {}
        self._result: Step | list[Step] | None = None

    @property
    def aio(self) -> AsyncWorkflow:
        """The same, awaitable."""
        from eventq.workflow.aio import AsyncWorkflow

        return AsyncWorkflow(self)

    def input(self, name: str, default: Any = REQUIRED) -> Placeholder:
        """Declare what a run is given when it starts: `page = flow.input("page")`, and then `flow.start(page=3)`.

        The placeholder may stand among the arguments of steps wherever a step may. Without a default it must be given;
        values are plain data. Raises ConfigError for a name that is declared already, or none; PayloadError for a
        default that is no plain data.
        """
        self._not_given()
        if not text("the name of an input", name).isidentifier() or name in TAKEN or name in self._inputs:
            raise ConfigError(f"an input cannot be named {name!r}: a name of Python's, not 'notify', and none twice")
        if default is not REQUIRED:
            packer(self.app.store.codec)(default)
        self._inputs[name] = Placeholder(self, name, default)
        return self._inputs[name]

    def step(self, task: Task[..., Any] | Workflow, /, *args: Any, **kwargs: Any) -> Step:
        """Add a step: a call of a task, with its arguments checked as `enqueue` does. A step among them, also within
        lists and dicts, is a dependency: its result takes its place. What is to be said of the call itself, is said by
        `task.using(...)`; a `delay` counts from when the step may run.

        A step may be a run of another workflow, as that is now, with its inputs by name: `flow.step(other, page=3)`.
        Its result and its end are the step's. If this run is cancelled, that one is as well; if this one is resumed,
        one that has not completed begins anew.

        Raises TypeError, PayloadError for arguments that the task cannot take; ConfigError for options that belong to
        single calls, and for a step of another workflow.
        """
        self._not_given()
        step = Step(self, task, args, kwargs)
        self._steps.append(step)
        return step

    def returns(self, result: Step | Sequence[Step]) -> None:
        """Say whose result is that of a run: a step's, or several steps' as a list, None for those that have none.
        Unless said: that of the only step for which no other waits, or a dict of theirs by name."""
        self._result = self._own(result) if isinstance(result, Step) else [self._own(each) for each in result]

    def definition(self) -> Definition:
        """What a run takes along. Raises ConfigError for steps that wait for each other, and for names that are said
        twice."""
        return self._given or self._graph().definition

    def _graph(self) -> Graph:
        """The definition, with what is looked up in it."""
        if self._given is not None:
            return Graph(self._given)
        names = self._names()
        result: Any = self._result
        if result is not None:
            result = names[result] if isinstance(result, Step) else tuple(names[each] for each in result)
        nodes = tuple(step.node(names, name) for step, name in names.items())
        inputs = tuple(map(self._input, self._inputs.values()))
        codec = self.app.store.codec.name
        return checked(Definition(name=self.name, nodes=nodes, result=result, codec=codec, inputs=inputs))

    def to_dict(self) -> dict[str, Any]:
        """The workflow as plain data, that JSON can carry; `app.workflow_from` makes one of it."""
        return to_dict(self.definition())

    def mermaid(self) -> str:
        """The graph as Mermaid text."""
        return mermaid(self._graph())

    def svg(self) -> str:
        """The graph as an SVG picture: write it to a file that ends in `.svg`."""
        from eventq.workflow.svg import svg

        return svg(self._graph())

    def start(self, notify: str | None = None, **inputs: Any) -> Run:
        """Start a run: durable when it returns. It goes on whatever becomes of this process. `notify` is a user to be
        told how it ends, in `app.notifications`; all else are the inputs of the workflow, by name.

        Raises TypeError for an input that is missing, unknown, or nothing that its step can take; ConfigError for a
        graph that cannot be; PayloadError for one that is too large, and for inputs that are no plain data;
        StorageError.
        """
        graph = self._graph()
        self._check_inputs(inputs)
        definition = bound(self.app.store, graph.definition, inputs)
        return self.app.workflows.start(graph if definition is graph.definition else Graph(definition), notify)

    def scheduled(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What a schedule says of the event of each run that it puts, with these inputs. Raises what `start` does."""
        definition = self.definition()
        self._check_inputs(inputs)
        return run_fields(bound(self.app.store, definition, inputs))

    def __repr__(self) -> str:
        return f"<Workflow {self.name!r}>"

    def _own(self, step: Step) -> Step:
        if not isinstance(step, Step):
            raise TypeError(f"{step!r:.80} is no step; flow.step(task, ...) makes one")
        if step.flow is not self:
            raise ConfigError(f"{step!r} is a step of another workflow than {self.name!r}")
        return step

    def _own_input(self, input: Placeholder) -> Placeholder:
        if input.flow is not self:
            raise ConfigError(f"{input!r} is an input of another workflow than {self.name!r}")
        return input

    def _not_given(self) -> None:
        if self._given is not None:
            raise ConfigError(f"the workflow {self.name!r} was read from data, and is what it is; make another")

    def _input(self, input: Placeholder) -> Input:
        """An input as plain data."""
        if input.default is REQUIRED:
            return Input(name=input.name, required=True)
        codec = self.app.store.codec
        data = codec.encode(input.default)
        return (
            Input(name=input.name, default=msgspec.Raw(data))
            if codec.name == "json"
            else Input(name=input.name, data=data)
        )

    def _check_inputs(self, given: Mapping[str, Any]) -> None:
        """Hold values to the type hints of the parameters that take them as they are. Raises TypeError."""
        for step in self._steps:
            for input, path in step._inputs:  # noqa: SLF001
                if input.name not in given or len(path) != 2:
                    continue
                if isinstance(step.task, Workflow):
                    step.task._check_inputs({str(path[1]): given[input.name]})  # noqa: SLF001 - one of them
                elif step.task.arguments is not None and (hint := _hint(step.task.arguments, path[1])) is not Any:
                    step.task.arguments._convert(given[input.name], hint, path[1], True)  # noqa: SLF001

    def _names(self) -> dict[Step, str]:
        """The steps with their names; the second `resize` is `resize-2`."""
        taken = {step._name for step in self._steps if step._name is not None}  # noqa: SLF001
        seen: Counter[str] = Counter()
        names = {}
        for step in self._steps:
            name = step._name  # noqa: SLF001
            if name is None:
                short = step.task.name.rpartition(".")[2] or step.task.name
                while name is None or name in taken:
                    seen[short] += 1
                    name = short if seen[short] == 1 else f"{short}-{seen[short]}"
            names[step] = name
        return names


# ---------------------------------------------------------------- small graphs


def chain(app: App, calls: Iterable[Any]) -> Workflow:
    """Each call takes the result of the one before as its first argument."""
    flow, before = Workflow(app, "chain"), None
    for task, args in map(_call, _at_least_one("chain", calls)):
        before = flow.step(task, *args) if before is None else flow.step(task, before, *args)
    return flow


def group(app: App, calls: Iterable[Any], name: str = "group") -> Workflow:
    """All calls side by side; the result is the list of theirs."""
    flow = Workflow(app, name)
    flow.returns([flow.step(task, *args) for task, args in map(_call, _at_least_one(name, calls))])
    return flow


def chord(app: App, calls: Iterable[Any], body: Any) -> Workflow:
    """All calls side by side, and then one that takes the list of their results as its first argument."""
    flow = Workflow(app, "chord")
    steps = [flow.step(task, *args) for task, args in map(_call, _at_least_one("chord", calls))]
    task, args = _call(body)
    flow.returns(flow.step(task, steps, *args))
    return flow


def _call(call: Any) -> tuple[Any, Sequence[Any]]:
    """A task, or a tuple of a task and arguments."""
    return (call[0], call[1:]) if isinstance(call, tuple) and call else (call, ())


def _at_least_one(name: str, calls: Iterable[Any]) -> list[Any]:
    if isinstance(calls, str | bytes | Mapping | Task):
        raise TypeError(f"{name} takes several calls, each a task or a tuple (task, argument, ...), not {calls!r:.80}")
    found = list(calls)
    if not found:
        raise ConfigError(f"a {name} of nothing has no result; give it at least one call")
    return found


def _several(steps: Step | Iterable[Step]) -> list[Step]:
    return [steps] if isinstance(steps, Step) else list(steps)


# ---------------------------------------------------------------- calls as data


HOLES = (Step, Placeholder)
"""What stands among arguments for something that is not known yet."""


def packed(
    task: Task[Any, Any], args: Sequence[Any], kwargs: Mapping[str, Any], found: list[Any], stands_for: Any = HOLES
) -> bytes:
    """A call as data; steps among the arguments, or others that stand for what is not known yet, are added to `found`.
    The others are checked as `enqueue` does."""
    bare_args = [lifted(each, stands_for, ("args", index), found) for index, each in enumerate(args)]
    bare_kwargs = {name: lifted(each, stands_for, ("kwargs", name), found) for name, each in kwargs.items()}
    if not found:
        return task.pack(args, kwargs)
    _check_paths(task.name, found)
    holes = {path[:2] for _, path in found}
    arguments, codec = task.arguments, task.app.store.codec
    call = Call(task.name, bare_args, bare_kwargs)
    data = encode_call(codec, call)
    if arguments is not None:
        arguments.signature.bind(*args, **kwargs)
        back = codec.decode(data, Call)
        _check(task, list(enumerate(args)), back.args, holes)
        _check(task, list(kwargs.items()), back.kwargs, holes)
    return data


def _packed_inputs(flow: Workflow, args: Sequence[Any], kwargs: Mapping[str, Any], found: list[Any]) -> bytes:
    """The inputs of a workflow that is a step, as the data of a call."""
    if args:
        raise TypeError(f"a workflow takes its inputs by name: flow.step({flow.name}, page=...)")
    check_names(flow.definition(), kwargs)
    bare = {name: lifted(each, HOLES, ("kwargs", name), found) for name, each in kwargs.items()}
    _check_paths(flow.name, found)
    holes = {path[1] for _, path in found}
    known = {name: each for name, each in kwargs.items() if name not in holes}
    flow._check_inputs(known)  # noqa: SLF001 - of this module
    packer(flow.app.store.codec)(known)
    return encode_call(flow.app.store.codec, Call(TASK, [], bare))


def _sub_fields(flow: Workflow) -> dict[str, Any]:
    """What the step has that is a run of a workflow."""
    return {"queue": QUEUE, "codec": flow.app.store.codec.name, "sub": flow.definition()}


def _check_paths(name: str, found: list[Any]) -> None:
    for _, path in found:
        if not all(isinstance(key, str | int) and not isinstance(key, bool) for key in path):
            raise PayloadError(f"{name}: a step stands in a dict whose keys are not text; use text")


def _check(task: Task[Any, Any], given: list[tuple[Any, Any]], back: Any, holes: set[Any]) -> None:
    """Hold the arguments that are known now to their type hints."""
    arguments = task.arguments
    assert arguments is not None
    for key, value in given:
        kind = "args" if isinstance(key, int) else "kwargs"
        if (kind, key) in holes:
            continue
        again, hint = back[key], _hint(arguments, key)
        if hint is not Any:
            arguments._convert(again, hint, key, True)  # noqa: SLF001 - as `Arguments.pack` does
        elif again != value:
            raise PayloadError(
                f"{task.name}: argument {key!r} is of type {type(value).__name__} and would come back as "
                f"{type(again).__name__}, or different; give the parameter a type hint, or pass plain data"
            )


def _hint(arguments: Arguments, key: int | str) -> Any:
    """The type hint of the parameter that takes an argument."""
    if isinstance(key, str):
        return arguments._named.get(key, arguments._others)  # noqa: SLF001 - likewise
    positional = arguments._positional  # noqa: SLF001
    return positional[key] if key < len(positional) else arguments._rest  # noqa: SLF001


def _put_fields(task: Task[Any, Any]) -> dict[str, Any]:
    """What a put says about the events of a step. What belongs to a single call is refused."""
    why = "each step of a run has a key of its own, and is put when its turn has come"
    return {**task.put_later(NOT_ITS_OWN, why), "delay": task.options.put.get("delay")}
