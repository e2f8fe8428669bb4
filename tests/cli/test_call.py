"""`eventq call`: by name alone, and checked by an app."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Run, ended
from shop_source import shop

from eventq import App

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def program(tmp_path: Path) -> Iterator[Path]:
    with shop(tmp_path) as path:
        yield path


def event(run: Run, *args: str) -> dict[str, Any]:
    """The event that a call leads to."""
    sys.modules.pop("shop", None)  # every command is a process of its own
    done = run("call", *args)
    assert (done.code, done.err) == (0, ""), done
    shown: dict[str, Any] = run("show", done.out.strip(), "--json").json
    return shown


@pytest.mark.parametrize(
    ("args", "payload"),
    [
        ([], {}),
        (["3", "text", "[1, 2]", "null", '"4"', "-5"], {"args": [3, "text", [1, 2], None, "4", -5]}),
        (["1", "--kw", "width=64", "--kw", "path=a=b"], {"args": [1], "kwargs": {"width": 64, "path": "a=b"}}),
        (["1", "--json-args", '[{"id": 1}, 2]'], {"args": [1, {"id": 1}, 2]}),
        (["--json-args", '{"a": [1]}', "--kw", "b=x"], {"kwargs": {"b": "x", "a": [1]}}),
    ],
)
def test_arguments_are_json_or_text(run: Run, args: list[str], payload: dict[str, Any]) -> None:
    found = event(run, "any.task", *args)
    assert found["payload"] == {"task": "any.task", **payload}
    assert found["queue"] == "default"


def test_options(run: Run) -> None:
    found = event(
        run, "any.task", "--queue", "other", "--priority", "7", "--delay", "10m", "--expires", "1h", "--key", "k",
        "--header", "user:=1",
    )  # fmt: skip
    assert (found["queue"], found["priority"], found["key"], found["headers"]) == ("other", 7, "k", {"user": 1})
    assert found["state"] == "delayed"
    assert found["expires"]
    assert run("call", "any.task", "--queue", "other", "--key", "k").out.strip() == found["id"]


@pytest.mark.parametrize(
    ("args", "payload"),
    [
        (["shop.total", "3", "4"], {"args": [3, 4]}),
        (["shop.total", '"3"', "--kw", "second=4"], {"args": [3, 4]}),
        (["shop.greet", "ada"], {"args": ["ada"]}),
        (["shop.greet", "64"], {"args": ["64"]}),
        (["shop.greet", "true"], {"args": ["true"]}),
    ],
)
def test_an_app_converts_to_what_the_function_takes(run: Run, args: list[str], payload: dict[str, Any]) -> None:
    assert event(run, *args, "--app", "shop:app")["payload"] == {"task": args[0], **payload}


def test_an_app_says_more_of_its_tasks(run: Run) -> None:
    with_app = event(run, "shop.until_there", "x", "--app", "shop:app")
    assert (with_app["queue"], event(run, "shop.until_there", "x")["queue"]) == ("slow", "default")


@pytest.mark.parametrize(
    "args",
    [["shop.total"], ["shop.total", "three"], ["shop.total", "1", "2", "3"], ["shop.total", "1", "--kw", "third=3"]],
)
def test_wrong_arguments_are_refused_with_the_signature(run: Run, args: list[str]) -> None:
    done = run("call", *args, "--app", "shop:app")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert "the task is shop.total(first: " in done.err
    assert run("status", "--json").json["queues"] == []


def test_an_unknown_task_of_an_app(run: Run) -> None:
    done = run("call", "shop.totl", "--app", "shop:app")
    assert done.code == 2
    assert "there are: shop.apart, shop.fail, shop.greet" in done.err


@pytest.mark.parametrize(
    "options", [["--kw", "novalue"], ["--kw", "1=2"], ["--json-args", "{"], ["--json-args", "3"], ["--wait", "x"]]
)
def test_wrong_options(run: Run, options: list[str]) -> None:
    done = run("call", "any.task", *options)
    assert (done.code, done.out) == (2, "")


def test_json(run: Run) -> None:
    done = run("call", "any.task", "--json").json
    assert done["queue"] == "default"
    assert run("show", done["id"]).code == 0


@pytest.mark.parametrize(
    ("call", "code", "out", "says"),
    [
        (["shop.total", "3", "4"], 0, 7, ""),
        (["shop.greet", "ada"], 0, "hello ada", ""),
        (["shop.fail", "--app", "shop:app"], 1, None, "ValueError: no such picture"),
    ],
)
def test_waiting_for_the_result(
    run: Run, start: Callable[..., subprocess.Popen[str]], call: list[str], code: int, out: Any, says: str
) -> None:
    caller = start("call", *call, "--wait", "20", "--json")
    worker = start("worker", "shop:app")
    try:
        done = ended(caller)
    finally:
        worker.terminate()
        assert ended(worker).code == 0
    assert (done.code, json.loads(done.out) if done.out else None) == (code, out)
    assert says in done.err


def test_the_wait_ends_in_time(run: Run) -> None:
    done = run("call", "any.task", "--wait", "0.1")
    assert (done.code, done.out) == (124, "")
    assert "is still ready after 0.1 s" in done.err
    assert run("status", "--json").json["queues"][0]["ready"] == 1


# ---------------------------------------------------------------- to workers


@pytest.fixture
def workers(store: str) -> Iterator[list[str]]:
    """Two workers that know the task, by their own word, and one that does not."""
    with App(store) as first, App(store) as second, App(store) as stranger:
        for app, task in ((first, "shop.total"), (second, "shop.total"), (stranger, "shop.other")):
            app.store.storage.introduce(["default"], [task])
        yield [first.store.storage.worker, second.store.storage.worker]


def test_for_one_worker(run: Run, workers: list[str]) -> None:
    assert event(run, "shop.total", "1", "--worker", workers[0])["queue"] == f"worker-{workers[0]}"
    done = run("call", "shop.total", "--worker", "0123456789abcdef")
    assert (done.code, done.out) == (1, "")
    assert "no living worker '0123456789abcdef'" in done.err
    assert run("call", "shop.total", "--worker", workers[0], "--queue", "q").code == 2


def test_for_every_worker_that_knows_it(run: Run, workers: list[str]) -> None:
    done = run("call", "shop.total", "3", "--kw", "second=4", "--broadcast")
    shown = [run("show", id, "--json").json for id in done.lines]
    assert sorted(each["queue"] for each in shown) == sorted(f"worker-{worker}" for worker in workers)
    assert len(run("call", "shop.total", "--broadcast", "--json").json["ids"]) == 2
    done = run("call", "shop.nosuch", "--broadcast")
    assert (done.code, done.out, done.err) == (1, "", "no living worker knows the task shop.nosuch\n")


@pytest.mark.parametrize("options", [["--wait"], ["--worker", "x"], ["--queue", "q"]])
def test_what_does_not_go_with_a_broadcast(run: Run, options: list[str]) -> None:
    done = run("call", "shop.total", "--broadcast", *options)
    assert (done.code, done.out) == (2, "")
