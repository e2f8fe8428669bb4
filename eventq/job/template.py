"""Templates: texts in which names in braces stand for values, as `"report for {day}"` or `"{fetch.rows[0].id}"`.

A placeholder is a name, and a way into its value: `.field` is a key of a dict, `[2]` a place in a list, `[key]` a key
of a dict. That is all: nothing is called, computed or formatted, and no attribute of any object is looked at. `{{` and
`}}` are braces. A text that is one placeholder and nothing else gives the value itself, with its type; within a text it
gives its `str`. Computing alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from eventq.errors import TemplateError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = re.compile(r"[^\s.\[\]{}:!]+")
"""What a name, or a field, may consist of."""
INDEX = re.compile(r"-?[0-9]{1,9}\Z")
MAX_TEXT = 1 << 20
"""Characters of a text with placeholders, at most, once they are filled."""

Lookup = Callable[[str], Any]
"""Gives the value of a name."""


class Way(NamedTuple):
    """A placeholder: a name, and the steps into its value."""

    name: str
    steps: tuple[tuple[bool, str], ...]
    """Fields and indices in order, each with whether it stands in brackets."""
    text: str
    """As it is written, without braces."""


class Template(NamedTuple):
    """A text with placeholders, read."""

    text: str
    parts: tuple[str | Way, ...]

    @property
    def ways(self) -> list[Way]:
        """Its placeholders."""
        return [part for part in self.parts if isinstance(part, Way)]

    def filled(self, lookup: Lookup) -> Any:
        """The text with the values in their places, or the value itself if it is one placeholder and nothing else.
        Raises TemplateError; and what `lookup` raises."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Way):
            return _value(self.parts[0], lookup)
        filled = "".join(part if isinstance(part, str) else str(_value(part, lookup)) for part in self.parts)
        if len(filled) > MAX_TEXT:
            raise TemplateError(f"{self.text!r:.80} comes to {len(filled)} characters, at most {MAX_TEXT}")
        return filled


def template(text: str) -> Template | None:
    """The template that a text is; None for one without braces. Raises TemplateError for what cannot be read."""
    if "{" not in text and "}" not in text:
        return None
    parts: list[str | Way] = []
    plain, place = "", 0
    while place < len(text):
        char = text[place]
        if text.startswith(("{{", "}}"), place):
            plain, place = plain + char, place + 2
        elif char == "{":
            if plain:
                parts.append(plain)
            end = text.find("}", place)
            if end < 0:
                raise TemplateError(f"{text!r:.80}: a brace is never closed; write '{{{{' for a brace itself")
            parts.append(_way(text[place + 1 : end], text))
            plain, place = "", end + 1
        elif char == "}":
            raise TemplateError(f"{text!r:.80}: a brace is closed that was not opened; write '}}}}' for a brace itself")
        else:
            plain, place = plain + char, place + 1
    if plain or not parts:
        parts.append(plain)
    return Template(text, tuple(parts))


def templates_in(value: Any) -> Iterator[tuple[Template, str]]:
    """The templates in the texts of plain data, also within lists and dicts, each with where it stands. Raises
    TemplateError."""
    todo: list[tuple[Any, str]] = [(value, "")]
    while todo:
        each, where = todo.pop()
        if isinstance(each, str):
            found = template(each)
            if found is not None:
                yield found, where
        elif isinstance(each, dict):
            todo += [(inner, f"{where}[{key!r}]") for key, inner in each.items()]
        elif isinstance(each, list | tuple):
            todo += [(inner, f"{where}[{number}]") for number, inner in enumerate(each)]


# ---------------------------------------------------------------- reading


def _way(inner: str, text: str) -> Way:
    about = f"{text!r:.80}: {{{inner}}}"
    if not inner:
        raise TemplateError(f"{text!r:.80}: nothing stands in the braces; write a name, or '{{{{}}}}' for braces")
    if "!" in inner or ":" in inner:
        raise TemplateError(f"{about} asks for a conversion or a format; a placeholder takes a value as it is")
    found = NAME.match(inner)
    if found is None:
        raise TemplateError(f"{about} does not begin with a name")
    place, steps = found.end(), []
    while place < len(inner):
        bracket = inner[place] == "["
        end = inner.find("]", place) if bracket else -1
        step = NAME.match(inner, place + 1) if inner[place] in ".[" else None
        if step is None or (bracket and step.end() != end):
            why = "calls are never made" if "(" in inner else "write {name}, {name.field}, {name[0]} or {name[key]}"
            raise TemplateError(f"{about} cannot be read from {inner[place:]!r} on; {why}")
        steps.append((bracket, step[0]))
        place = step.end() + bracket
    if "(" in inner:
        raise TemplateError(f"{about} looks like a call, and calls are never made; let a stage compute it")
    return Way(found[0], tuple(steps), inner)


# ---------------------------------------------------------------- filling


def _value(way: Way, lookup: Lookup) -> Any:
    value, seen = lookup(way.name), way.name
    for bracket, step in way.steps:
        value = _inner(value, bracket, step, f"{{{way.text}}}: {seen}")
        seen += f"[{step}]" if bracket else f".{step}"
    return value


def _inner(value: Any, bracket: bool, step: str, about: str) -> Any:
    if isinstance(value, dict):
        if step in value:
            return value[step]
        known = ", ".join(sorted(map(str, value))[:10]) or "nothing"
        raise TemplateError(f"{about} has no {step!r}; it has {known:.200}")
    if isinstance(value, list) and bracket and INDEX.match(step):
        try:
            return value[int(step)]
        except IndexError:
            raise TemplateError(f"{about} has {len(value)} items, and none at [{step}]") from None
    if isinstance(value, list):
        raise TemplateError(f"{about} is a list, which has items and no {step!r}; write [0] for its first one")
    raise TemplateError(f"{about} is {_kind(value)}, which has nothing inside; {step!r} is asked for")


def _kind(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"
