"""The pytest plugin, in tests of a program of its own (W16)."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]

SHOP = """
import eventq

app = eventq.App("store", sync=False)
sent = []

@app.task(retry_delay=3600)
def welcome(user: str, language: str = "en") -> None:
    sent.append((user, language))
    if len(sent) == 1:
        raise ConnectionError("the mail server is away")

def signup(user):
    welcome.using(delay=60).enqueue(user)
"""

TESTS = """
import time
import pytest
import shop
from eventq import App
from eventq.testing import FakeClock, assert_enqueued, assert_not_enqueued, inline, run_until_empty

def test_signup_sends_a_mail(eventq_isolated, eventq_clock):
    assert eventq_isolated(shop.app) is shop.app
    began = eventq_clock.now()
    shop.signup("ann")
    assert_enqueued(shop.app, shop.welcome, "ann")
    assert_not_enqueued(shop.app, shop.welcome, "bob")
    run_until_empty(shop.app)
    assert shop.sent == [("ann", "en")] * 2
    assert eventq_clock.now() - began > 60 + 1800

def test_nothing_is_left_of_the_other_test(eventq_isolated):
    eventq_isolated(shop.app)
    assert shop.app.queues() == []

def test_the_own_store_is_back():
    assert shop.app.queues() == []
    assert not isinstance(shop.app.store.clock, FakeClock)

def test_apps(eventq_app, eventq_files, eventq_clock, tmp_path):
    for app in (eventq_app, eventq_files):
        assert app.store.clock is eventq_clock

        @app.task(name="double")
        def double(number: int) -> int:
            return number * 2

        handle = double.using(delay=3600).enqueue(4)
        run_until_empty(app)
        assert handle.result(0) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["eventq"]

def test_a_failed_assertion_says_what_waits(eventq_app):
    eventq_app.task_named("other").enqueue(1)
    eventq_app.task(name="wanted")(shop.signup)
    assert_enqueued(eventq_app, "wanted", "ann")
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(
        "-p", "no:eventq", "-p", "eventq.testing.plugin", "-p", "no:cacheprovider", *arguments
    )


def test_the_fixtures(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(shop=SHOP, test_shop=TESTS)
    result = run(pytester, "-W", "error")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*wanted('ann') is not enqueued; these wait:*", "*other(1) in default*"])


@pytest.mark.exhaustive
def test_they_are_described(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--fixtures")
    for name in ("eventq_app", "eventq_files", "eventq_clock", "eventq_isolated"):
        result.stdout.fnmatch_lines([f"{name}*"])


def test_installing_eventq_brings_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"eventq": "eventq.testing.plugin"}
