"""`eventq bench`: it measures for real, here with few events."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import Run

from eventq.cli import bench


@pytest.fixture(autouse=True)
def few_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "WAKES", 20)


@pytest.mark.exhaustive
def test_bench_measures_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    document = run("bench", "--events", "100", "--runs", "2", "--json").json
    results = {entry["name"]: entry for entry in document["results"]}
    assert list(results) == [
        "put",
        "claim and complete",
        "put, claim, complete in turn",
        "put_many",
        "durable put",
        "durable put_many of 100",
        "an idle process wakes, half within",
        "99 of 100 within",
    ]
    for entry in results.values():
        assert len(entry["runs"]) == 2
        assert min(entry["runs"]) <= entry["median"] <= max(entry["runs"])
        assert min(entry["runs"]) > 0
    assert document["setup"]["place"] == str(tmp_path)
    assert os.listdir(tmp_path) == []


def test_bench_prints_a_table(run: Run) -> None:
    done = run("bench", "--events", "100", "--runs", "1")
    assert done.code == 0
    assert done.lines[1].split() == ["MEASURED", "MEDIAN", "FROM", "-", "TO"]
    assert len(done.lines) == 10
    assert done.lines[2].split()[0] == "put"


@pytest.mark.parametrize("options", [["--events", "1"], ["--runs", "0"], ["--events", "x"]])
def test_wrong_options(run: Run, options: list[str]) -> None:
    assert run("bench", *options).code == 2


def test_a_place_that_is_not_there(run: Run, eventq: Run) -> None:
    done = run("bench", "--place", "/nowhere/at/all")
    assert done.code == 1
    assert "--place" in done.err
    assert eventq("--store", "memory://", "bench").code == 2
