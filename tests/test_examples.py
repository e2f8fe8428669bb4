"""Each example runs as a user would run it, and prints what its docstring promises."""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text("utf-8")), clean=False) or ""


def promised_command(path: Path) -> str:
    match = re.search(rf"^    \$ python (examples/{path.name}.*)$", docstring(path), re.MULTILINE)
    assert match, f"the docstring of {path.name} must show how to run it: '    $ python examples/{path.name}'"
    return match[1]


def promised_output(path: Path) -> str:
    """The indented lines that follow the command."""
    after = docstring(path).partition(promised_command(path) + "\n")[2]
    lines = re.match(r"(?:    .*\n|\n)*(?:    .*\Z)?", after)
    assert lines
    return "\n".join(line.removeprefix("    ") for line in lines[0].strip("\n").splitlines()) + "\n"


def run_example(path: Path, folder: Path) -> str:
    """In an empty folder that looks like the checkout, so that the promised command works as it stands."""
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVENTQ_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", *promised_command(path).split()],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, Future[str]]]:
    """All of them at once: most of their time they wait."""
    folder = tmp_path_factory.mktemp("examples")
    with ThreadPoolExecutor(len(EXAMPLES)) as pool:
        yield {path: pool.submit(run_example, path, folder / path.stem) for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_prints_what_it_promises(path: Path, running: dict[Path, Future[str]]) -> None:
    expected, printed = promised_output(path), running[path].result()
    checker = doctest.OutputChecker()
    example = doctest.Example("", expected)
    assert checker.check_output(expected, printed, doctest.ELLIPSIS), checker.output_difference(
        example, printed, doctest.REPORT_NDIFF
    )


def test_there_are_examples_and_each_is_short() -> None:
    assert len(EXAMPLES) >= 3
    for path in EXAMPLES:
        assert len(path.read_text("utf-8").splitlines()) <= 80, f"{path.name}: one idea, at most 80 lines"


def test_examples_use_only_the_public_names() -> None:
    for path in EXAMPLES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("eventq"):
                assert node.module == "eventq", f"{path.name}:{node.lineno} reaches inside: {node.module}"
