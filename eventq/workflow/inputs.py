"""The inputs of a workflow: places in its calls that are filled when a run starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventq.arguments import Call, encode_call
from eventq.codec import packer
from eventq.workflow.graph import NOTHING, Definition, Input, Node, place

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from eventq.store import Store


def check_names(definition: Definition, given: Iterable[str]) -> None:
    """Raise TypeError unless these are inputs of the workflow, and all that it cannot do without."""
    about, given = f"workflow {definition.name!r}", set(given)
    known = {each.name for each in definition.inputs}
    if unknown := sorted(given - known):
        there = ", ".join(sorted(known)) or "none"
        raise TypeError(f"{about} has no input {unknown[0]!r}; there are: {there}")
    if missing := sorted(each.name for each in definition.inputs if each.required and each.name not in given):
        raise TypeError(f"{about} needs the input {missing[0]!r}: write {missing[0]}=...")


def bound(store: Store, definition: Definition, given: Mapping[str, Any]) -> Definition:
    """The definition that a run takes along: with the values of its inputs in their places.

    Raises TypeError for an input that is missing or unknown, PayloadError for a value that is not plain data.
    """
    check_names(definition, given)
    if not definition.inputs:
        return definition
    pack = packer(store.codec_named(definition.codec))
    for value in given.values():
        pack(value)
    values = {each.name: _default(store, definition, each) for each in definition.inputs} | dict(given)
    nodes = tuple(_filled(store, node, values) for node in definition.nodes)
    return msgspec.structs.replace(definition, nodes=nodes, inputs=())


def _default(store: Store, definition: Definition, input: Input) -> Any:
    return None if input.required else store.load(input.data or bytes(input.default), definition.codec)


def _filled(store: Store, node: Node, values: Mapping[str, Any]) -> Node:
    if node.undo is not None:
        node = msgspec.structs.replace(node, undo=_filled(store, node.undo, values))
    if not node.inputs:
        return node
    call: Call = store.load(node.payload, node.codec, Call)
    place(call.args, call.kwargs, node.inputs, values)
    data = encode_call(store.codec_named(node.codec), call)
    if node.codec == "json":
        return msgspec.structs.replace(node, call=msgspec.Raw(data), inputs=())
    return msgspec.structs.replace(node, call=msgspec.Raw(NOTHING), data=data, inputs=())
