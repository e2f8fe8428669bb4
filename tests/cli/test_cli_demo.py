"""`eventq demo`, run for real; and that it would notice if something were wrong."""

from __future__ import annotations

import ast
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import Run, ended

from eventq.cli import demo
from eventq.cli.survey import Survey, library, survey

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

SOME = "250"


@pytest.fixture
def small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what lies at its top: listing all of it takes a while."""
    root = Path(ast.__file__).parent
    monkeypatch.setattr(demo, "library", lambda: (root, sorted(path.name for path in root.glob("*.py"))))


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.exhaustive
def test_the_demo_loses_nothing(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = start("demo", "--files", SOME, env={**os.environ, "TMPDIR": str(tmp_path)})
    done = ended(process, timeout=60)
    assert done.code == 0, done
    assert re.search(r"^lost 0, stuck 0, recovered 1 in \d+ ms$", done.out, re.MULTILINE), done.out
    words = re.findall(r"^  (\S+(?: -9)?)  +\S", done.out, re.MULTILINE)
    assert words == ["store", "put", "work", "kill -9", "recover", "done", "check"]
    assert "\x1b" not in done.out + done.err
    assert os.listdir(tmp_path) == []


@pytest.mark.exhaustive
def test_a_wrong_result_is_noticed(eventq: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain loop in this process counts one function too many in one file; all else is as it should be."""
    wrong = library()[1][7]

    def off_by_one(path: Path) -> Survey:
        found = survey(path)
        return found + Survey(functions=1) if path.as_posix().endswith(wrong) else found

    monkeypatch.setattr(demo, "survey", off_by_one)
    done = eventq("demo", "--files", SOME, "--json", "--keep")
    assert done.code == 1
    document = done.json
    assert document["ok"] is False
    assert document["plain_loop"].pop("functions") == document["eventq"].pop("functions") + 1
    assert document["plain_loop"] == document["eventq"]
    assert (document["files"], document["states"]["completed"]) == (250, 250)
    assert (document["lost"], document["stuck"], document["differing"], document["recovered"]) == (0, 0, 1, 1)
    assert document["recovery_ms"] > 0
    match = re.search(r"eventq --store (\S+) status", done.err)
    assert match is not None
    kept = eventq("--store", match[1], "status", "--json").json
    assert (kept["workers"], kept["queues"][0]["completed"]) == (0, 250)
    events = eventq("--store", match[1], "list", "files", "--json", "--limit", "0").json["events"]
    lives = [[(attempt["outcome"], attempt["worker"]) for attempt in event["attempts"]] for event in events]
    (crashed,) = [life for life in lives if len(life) > 1]
    assert [outcome for outcome, _ in crashed] == ["crashed", "completed"]
    assert len({worker for _, worker in crashed}) == 2


@pytest.mark.usefixtures("small_library")
def test_a_worker_that_fails_is_noticed(eventq: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo.sys, "executable", "/bin/false")
    done = eventq("demo", "--files", "50")
    assert done.code == 1
    assert "ended by itself with exit code 1" in done.err
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("small_library")
def test_wrong_use(eventq: Run, run: Run) -> None:
    assert run("demo").code == 2
    assert eventq("demo", "--files", "10").code == 1


def test_the_survey_counts_what_a_person_would(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("import os, sys\nfrom a import b\n\nclass A:\n    def f(self): ...\n    async def g(self): ...\n")
    assert survey(file) == Survey(files=1, lines=6, functions=2, classes=1, imports=2)
    file.write_text("def (:\n")
    assert survey(file) == Survey(files=1, lines=1, unparsable=1)


@pytest.mark.exhaustive
def test_the_survey_takes_the_real_library() -> None:
    root, files = library()
    assert len(files) > 300
    assert root.joinpath("ast.py").read_text("utf-8")
    assert ast.__file__ == str(root / "ast.py")
    assert not any("site-packages" in file for file in files)
