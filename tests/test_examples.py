"""Each example runs as a user would run it, and prints what its docstring promises."""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LONG = {
    "count_primes", "crawl_site", "deliver_webhooks", "index_texts", "nightly_report", "resize_pictures",
    "staged_job", "test_shop_tasks",
}  # fmt: skip
"""Those that take more than a second."""
VARIABLES: dict[str, str] = {}
"""What is set for them: nothing."""
STORAGE = {"socket_storage"}
"""A storage is longer than what uses one, and rests on the seam below the public names."""
SEAM = {"eventq", "eventq.model", "eventq.storage.base", "eventq.storage.forks", "eventq.storage.memory"}
LEFT = {"shop_tasks": {".eventq"}}
"""What an example leaves in the current folder because it shows how that is used."""


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text("utf-8")), clean=False) or ""


def promised_command(path: Path) -> str:
    command = "pytest -q" if path.name.startswith("test_") else "python"
    match = re.search(rf"^    \$ ({command} examples/{path.name}.*)$", docstring(path), re.MULTILINE)
    assert match, f"the docstring of {path.name} must show how to run it: '    $ {command} examples/{path.name}'"
    return match[1]


def promised_output(path: Path) -> str:
    """The indented lines that follow the command."""
    after = docstring(path).partition(promised_command(path) + "\n")[2]
    lines = re.match(r"(?:    .*\n|\n)*(?:    .*\Z)?", after)
    assert lines
    return "\n".join(line.removeprefix("    ") for line in lines[0].strip("\n").splitlines()) + "\n"


def run_example(path: Path, folder: Path) -> str:
    """In an empty folder that looks like the checkout, so that the promised command works as it stands."""
    (folder / "examples").symlink_to(ROOT / "examples")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("EVENTQ_", "PYTEST_"))}
    environment |= VARIABLES
    program, *arguments = promised_command(path).split()
    started_as = [] if program == "python" else ["-m", program, "-p", "no:cacheprovider"]  # it would be in the checkout
    with tempfile.TemporaryDirectory() as temporary:  # not below the folder: names of sockets must be short
        done = subprocess.run(
            [sys.executable, "-W", "error", *started_as, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=folder,
            env={**environment, "TMPDIR": temporary},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert not done.stderr
        assert not os.listdir(temporary)
    assert {entry.name for entry in folder.iterdir()} == {"examples"} | LEFT.get(path.stem, set())
    return done.stdout


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.exhaustive] if path.stem in LONG else [])
        for path in EXAMPLES
    ],
)
def test_the_example_prints_what_it_promises(path: Path, tmp_path: Path) -> None:
    expected, printed = promised_output(path), run_example(path, tmp_path)
    checker = doctest.OutputChecker()
    example = doctest.Example("", expected)
    assert checker.check_output(expected, printed, doctest.ELLIPSIS), checker.output_difference(
        example, printed, doctest.REPORT_NDIFF
    )


def test_there_are_examples_and_each_is_short() -> None:
    assert len(EXAMPLES) >= 3
    for path in EXAMPLES:
        most = 200 if path.stem in STORAGE else 120
        assert len(path.read_text("utf-8").splitlines()) <= most, f"{path.name}: one idea, at most {most} lines"


def test_examples_use_only_the_public_names() -> None:
    for path in EXAMPLES:
        public = {"eventq", "eventq.testing"} if path.name.startswith("test_") else {"eventq"}
        public |= SEAM if path.stem in STORAGE else set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("eventq"):
                assert node.module in public, f"{path.name}:{node.lineno} reaches inside: {node.module}"
