"""Templates: what can be written, what it comes to, and that nothing in it is ever evaluated."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventq import TemplateError
from eventq.job.template import MAX_TEXT, template, templates_in

VALUES: dict[str, Any] = {
    "day": "mon",
    "n": 7,
    "none": None,
    "no": False,
    "rows": [{"id": 1, "tags": ["a", "b"]}, {"id": 2, "tags": []}],
    "fetch": {
        "rows": [10, 20, 30],
        "a b": 1,
        "0": "zero",
        "items": "mine",
        "ключ": "wert",
        "nested": {"x": {"y": [5]}},
    },
    "0": {"total": 3.5},
    "matrix": [[1, 2], [3, 4]],
}


def filled(text: str) -> Any:
    found = template(text)
    return text if found is None else found.filled(lambda name: VALUES[name])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{day}", "mon"),
        ("{n}", 7),
        ("{none}", None),
        ("{no}", False),
        ("{rows}", VALUES["rows"]),
        ("{rows[0]}", VALUES["rows"][0]),
        ("{rows[-1].id}", 2),
        ("{rows[0].tags[1]}", "b"),
        ("{fetch.rows[2]}", 30),
        ("{fetch[rows][0]}", 10),
        ("{fetch[0]}", "zero"),
        ("{fetch.0}", "zero"),
        ("{fetch.items}", "mine"),
        ("{fetch.ключ}", "wert"),
        ("{fetch.nested.x.y[0]}", 5),
        ("{matrix[1][0]}", 3),
        ("{0.total}", 3.5),
        ("for {day}", "for mon"),
        ("{day}{n}", "mon7"),
        (" {n}", " 7"),
        ("{n} and {none} and {no}", "7 and None and False"),
        ("{matrix} here", "[[1, 2], [3, 4]] here"),
        ("{{day}}", "{day}"),
        ("{{{n}}}", "{7}"),
        ("{{", "{"),
        ("}}", "}"),
        ("{{}}", "{}"),
        ("a{{b}}c{n}d", "a{b}c7d"),
    ],
)
def test_what_a_text_comes_to(text: str, value: Any) -> None:
    found = filled(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "never closed"),
        ("{day", "never closed"),
        ("}", "was not opened"),
        ("day}", "was not opened"),
        ("{day}}", "was not opened"),
        ("{}", "nothing stands in the braces"),
        ("a {} b", "write a name"),
        ("{ day}", "does not begin with a name"),
        ("{day }", "cannot be read from ' '"),
        ("{.day}", "does not begin with a name"),
        ("{[0]}", "does not begin with a name"),
        ("{day.}", "cannot be read from '.'"),
        ("{day..x}", "cannot be read"),
        ("{day[}", "cannot be read"),
        ("{day[]}", "cannot be read"),
        ("{day[0}", "cannot be read"),
        ("{day[0]x}", "cannot be read from 'x'"),
        ("{day[a.b]}", "cannot be read"),
        ("{day[[0]]}", "cannot be read"),
        ("{day!r}", "a conversion or a format"),
        ("{n:>10}", "a conversion or a format"),
        ("{day{n}}", "cannot be read"),
        ("{day.upper()}", "calls are never made"),
        ("{open('x')}", "calls are never made"),
        ("{n + 1}", "cannot be read"),
    ],
)
def test_what_cannot_be_read(text: str, says: str) -> None:
    with pytest.raises(TemplateError, match=says.replace("(", r"\(").replace("[", r"\[")) as caught:
        template(text)
    assert repr(text) in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{rows.id}", "{rows.id}: rows is a list, which has items and no 'id'; write [0]"),
        ("{rows[id]}", "is a list, which has items"),
        ("{rows[2].id}", "{rows[2].id}: rows has 2 items, and none at [2]"),
        ("{rows[-3]}", "has 2 items, and none at [-3]"),
        ("{rows[0].name}", "rows[0] has no 'name'; it has id, tags"),
        ("{fetch.nope}", "fetch has no 'nope'"),
        ("{day[0]}", "day is of type str, which has nothing inside"),
        ("{day.upper}", "day is of type str"),
        ("{none.x}", "none is null, which has nothing inside"),
        ("{n.real}", "n is of type int"),
        ("{fetch.__class__}", "fetch has no '__class__'"),
        ("{fetch.keys}", "fetch has no 'keys'"),
        ("{rows.__len__}", "is a list"),
        ("see {rows[9]}", "none at [9]"),
    ],
)
def test_what_cannot_be_filled(text: str, says: str) -> None:
    with pytest.raises(TemplateError) as caught:
        filled(text)
    assert says in str(caught.value)


def test_a_text_that_grows_too_large() -> None:
    found = template("{x}{x}")
    assert found is not None
    with pytest.raises(TemplateError, match="at most"):
        found.filled(lambda _: "x" * MAX_TEXT)


def test_templates_are_found_wherever_texts_are() -> None:
    value = {"a": ["{x}", {"b": ("{y.z}", 3, None, "plain", "{{}}")}], "{not}": 1.5}
    found = {(each.text, where) for each, where in templates_in(value)}
    assert found == {("{x}", "['a'][0]"), ("{y.z}", "['a'][1]['b'][0]"), ("{{}}", "['a'][1]['b'][4]")}
    deep: Any = "{x}"
    for _ in range(5000):
        deep = [deep]
    assert [each.text for each, _ in templates_in(deep)] == ["{x}"]


@given(st.text())
def test_any_text_survives_when_its_braces_are_doubled(text: str) -> None:
    assert filled(text.replace("{", "{{").replace("}", "}}")) == text


@given(st.text(alphabet="{}[].:!()0an x\\\n", max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    """It comes to something, or is a TemplateError: never another error, and what is read names only what stands in
    it."""
    try:
        found = template(text)
        assert found is None or all(way.name in text and way.text in text for way in found.ways)
        if found is not None:
            found.filled(lambda _: {"a": [{"n": 0}], "n": "x"})
    except TemplateError as error:
        assert str(error)


@given(st.recursive(st.none() | st.integers() | st.text(alphabet="abc"), st.lists, max_leaves=8))
def test_one_placeholder_gives_the_value_itself(value: Any) -> None:
    found = template("{it}")
    assert found is not None
    assert found.filled(lambda _: value) is value
