"""Every block of the README runs, and prints what the README says it prints.

The blocks of a section (`## ...`) run one after another in one fresh directory: the Python ones in one
fresh interpreter, the shell ones in bash between them. A `text` block is the output of the block before it;
`...` in it stands for anything, a time or an id. The two commands of the first screen install the package, so
`.ci/run` runs those.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
SCRIPTS = Path(sys.executable).parent

RUNNER = """
import contextlib, io, json, subprocess, sys

outputs = []
for line, language, code in json.load(sys.stdin):
    if language == "python":
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"README.md, the block at line {line}", "exec"), globals())
        outputs.append(printed.getvalue())
    else:
        command = ["bash", "-euo", "pipefail", "-c", code]
        shell = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert shell.returncode == 0, f"README.md, line {line}: {shell.stdout}{shell.stderr}"
        outputs.append(shell.stdout)
print(json.dumps(outputs))
"""


class Block(NamedTuple):
    section: str
    line: int
    language: str
    code: str


def read_blocks(text: str) -> list[Block]:
    found: list[Block] = []
    lines: list[str] = []
    section, opened, language = "", 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if opened and line == "```":
            found.append(Block(section, opened, language, "\n".join(lines) + "\n"))
            opened, lines = 0, []
        elif opened:
            lines.append(line)
        elif line.startswith("```"):
            opened, language = number, line.removeprefix("```")
        elif line.startswith("## "):
            section = line.removeprefix("## ")
    assert not opened, f"README.md:{opened}: the block is never closed"
    return found


BLOCKS = read_blocks(README.read_text("utf-8"))


def installs(block: Block) -> bool:
    return block.language == "sh" and block.code.startswith("pip install")


RUN = [block for block in BLOCKS if block.language in ("python", "sh") and not installs(block)]
PRINTS = {before: after for before, after in pairwise(BLOCKS) if after.language == "text"}
SECTIONS = {name: list(blocks) for name, blocks in groupby(RUN, key=lambda block: block.section)}


def run_blocks(blocks: list[Block], folder: Path) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVENTQ_")}
    environment["LC_ALL"] = "C.UTF-8"  # the order of `ls`
    environment["PATH"] = f"{SCRIPTS}{os.pathsep}{environment.get('PATH', os.defpath)}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER],
        input=json.dumps([(block.line, block.language, block.code) for block in blocks]),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outputs: list[str] = json.loads(done.stdout)
    return outputs


def differences(expected: str, printed: str) -> str:
    """Empty if they agree; `...` in what is expected stands for anything."""
    checker = doctest.OutputChecker()
    if checker.check_output(expected, printed, doctest.ELLIPSIS):
        return ""
    return checker.output_difference(doctest.Example("", expected), printed, doctest.REPORT_NDIFF)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[list[str]]]]:
    """All sections at once, each in a process of its own."""
    with ThreadPoolExecutor(len(SECTIONS)) as pool:
        yield {
            name: pool.submit(run_blocks, blocks, tmp_path_factory.mktemp("section"))
            for name, blocks in SECTIONS.items()
        }


@pytest.mark.parametrize("section", SECTIONS)
def test_the_blocks_run_and_print_what_they_say(section: str, running: dict[str, Future[list[str]]]) -> None:
    for block, printed in zip(SECTIONS[section], running[section].result(), strict=True):
        expected = PRINTS[block].code if block in PRINTS else ""
        difference = differences(expected, printed)
        assert not difference, f"README.md:{block.line} printed something else\n{difference}"


def test_every_block_is_run_or_an_output() -> None:
    outputs = set(PRINTS.values())
    left = [block for block in BLOCKS if block not in RUN and block not in outputs and not installs(block)]
    assert not left, f"write the language of these blocks, or what prints them: {[b.line for b in left]}"


def test_the_first_screen_has_the_two_commands() -> None:
    first = next(block for block in BLOCKS if block.language == "sh")
    commands = [line.partition("#")[0].strip() for line in first.code.splitlines()]
    assert commands == ["pip install . && eventq demo", 'pip install -e ".[test]" && pytest']


def test_the_readme_is_not_too_long() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 500


def without_comments(text: str) -> str:
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def test_the_benchmarks_shown_are_the_benchmarks_run() -> None:
    """The picture is there as soon as there are results, and each row of the table is one of theirs."""
    section = without_comments(README.read_text("utf-8")).partition("## Benchmarks")[2].partition("\n## ")[0]
    results = ROOT / "benchmarks" / "results" / "results.md"
    assert results.exists() == ("(benchmarks/results/results.svg)" in section)
    rows = [line for line in section.splitlines() if line.startswith("|")]
    written = [line for found in results.parent.rglob("results.md") for line in found.read_text("utf-8").splitlines()]
    assert not [row for row in rows if row not in written], "rows that are in no benchmarks/results/**/results.md"


def test_links_lead_somewhere() -> None:
    text = without_comments(re.sub(r"^```.*?^```$", "", README.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL))
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    assert targets
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in (link or source for link, source in targets):
        path, _, anchor = target.partition("#")
        if not path:
            assert anchor in anchors, f"no heading for #{anchor}"
        elif "://" not in path:
            assert (ROOT / path).exists(), f"{path} does not exist"


def test_a_wrong_output_is_noticed() -> None:
    assert differences("3 events\n", "4 events\n")
    assert not differences("waited ... s\n", "waited 0.31 s\n")


def test_a_failing_block_is_noticed(tmp_path: Path) -> None:
    for code in ("raise ValueError('no')", "import sys; sys.exit(3)"):
        with pytest.raises(AssertionError):
            run_blocks([Block("", 1, "python", code)], tmp_path)
    with pytest.raises(AssertionError):
        run_blocks([Block("", 1, "sh", "false | true\n")], tmp_path)
