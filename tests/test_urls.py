"""Where one machine is outgrown, the URL changes and nothing else: the README's programs and examples, elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import test_examples
import test_readme
from stores import KINDS, kinds, new_store

ELSEWHERE = [param for kind, param in zip(KINDS, kinds(), strict=True) if kind != "file"]
PROGRAMS = ("", "Queues and claims", "Tasks")
"""Sections of the README; what is special about a directory, and needs one, has its own."""
ANYWHERE = [path for path in test_examples.EXAMPLES if not re.search("^test_|_storage$", path.stem)]
"""The others bring a store of their own."""
APP = re.compile(r'eventq\.App\("[^"]*"\)')
OWN_FOLDER = re.compile(r'eventq\.App\((?:folder|store|f"\{folder\}/store")\)')


@pytest.mark.parametrize("section", PROGRAMS, ids=["the first program", *PROGRAMS[1:]])
@pytest.mark.parametrize("kind", ELSEWHERE)
def test_the_programs_of_the_readme_run_on_every_url(kind: str, section: str, tmp_path: Path) -> None:
    with new_store(kind, tmp_path) as url:
        blocks = [
            block._replace(code=APP.sub(f"eventq.App({url!r})", block.code))
            for block in test_readme.SECTIONS[section]
            if block.language == "python"
        ]
        assert any(url in block.code for block in blocks)
        printed = test_readme.run_blocks(blocks, tmp_path)
    for block, output in zip(
        (b for b in test_readme.SECTIONS[section] if b.language == "python"), printed, strict=True
    ):
        expected = test_readme.PRINTS[block].code if block in test_readme.PRINTS else ""
        assert not test_readme.differences(expected, output)


@pytest.mark.parametrize("path", ANYWHERE, ids=lambda path: path.stem)
@pytest.mark.parametrize("kind", [param for param in ELSEWHERE if "memory" not in param.values])
def test_the_examples_run_on_every_url(kind: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples, folder = tmp_path / "examples", tmp_path / "here"
    examples.mkdir()
    folder.mkdir()
    with new_store(kind, tmp_path) as url:
        for each in test_examples.EXAMPLES:
            text = OWN_FOLDER.sub(f"eventq.App({url!r})", each.read_text("utf-8"))
            (examples / each.name).write_text(text, "utf-8")
        monkeypatch.setitem(test_examples.LEFT, path.stem, set())
        monkeypatch.setattr(test_examples, "ROOT", tmp_path)
        monkeypatch.setattr(test_examples, "VARIABLES", {"EVENTQ_URL": url})
        printed = test_examples.run_example(examples / path.name, folder)
    assert not test_readme.differences(test_examples.promised_output(path), printed)
