"""What all tests share: a clock to move by hand, and how hard the property tests look."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

from eventq.testing import FakeClock

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "eventq-hypothesis")  # not into the checkout
settings.register_profile(
    "eventq",
    deadline=None,  # two busy cores make single examples slow
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("eventq")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def pytest_report_header(config: pytest.Config) -> str | None:
    if "not exhaustive" in config.option.markexpr:
        return "eventq: the quick set; the long proofs run with: pytest -m exhaustive"
    return None
