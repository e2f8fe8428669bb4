"""What a user installs: the wheel, its metadata, the extras, and the line that names a missing one."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import eventq

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
DRIVERS = {  # extra: the module that it installs
    "redis": "redis",
    "sql": "psycopg",
    "cron": "cronsim",
    "crypto": "cryptography",
    "cli": "rich",
    "server": "starlette",
    "otel": "opentelemetry",
    "prometheus": "prometheus_client",
    "django": "django",
    "fastapi": "fastapi",
    "taskiq": "taskiq",
    "celery": "celery",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel and the sdist, built offline by the project's own build backend, outside the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    code = "import sys; from hatchling.build import *; build_wheel(sys.argv[1]); build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel_names(built: Path) -> set[str]:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(built: Path) -> Message:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


def test_the_wheel_is_pure_python(built: Path) -> None:
    assert next(built.glob("*.whl")).name == f"eventq-{eventq.__version__}-py3-none-any.whl"


def test_the_wheel_has_the_whole_package_and_nothing_else(wheel_names: set[str]) -> None:
    tree = [path.relative_to(ROOT) for path in (ROOT / "eventq").rglob("*") if path.is_file()]
    expected = {str(path) for path in tree if "__pycache__" not in path.parts}
    assert {name for name in wheel_names if ".dist-info/" not in name} == expected
    assert {"eventq/py.typed", "eventq/storage/file/PROTOCOL.md"} <= wheel_names


def test_the_sdist_can_be_tested(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "eventq/__init__.py"} <= names
    assert {f"tests/{Path(__file__).name}", ".ci/run"} <= names


def test_the_metadata(metadata: Message) -> None:
    assert metadata["Name"] == "eventq"
    assert metadata["Version"] == eventq.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_payload() == (ROOT / "README.md").read_text("utf-8")


def test_a_bare_install_needs_two_packages(metadata: Message) -> None:
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(re.split(r"[<>=]", line)[0] for line in required) == ["filelock", "msgspec"]


def test_the_command_is_installed(wheel_names: set[str], built: Path) -> None:
    points = next(name for name in wheel_names if name.endswith("entry_points.txt"))
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        assert "eventq = eventq.cli:main" in archive.read(points).decode()


def test_every_extra_is_there(metadata: Message) -> None:
    assert set(metadata.get_all("Provides-Extra", [])) == {*DRIVERS, "test", "bench"}
    for extra, requirements in EXTRAS.items():
        assert requirements, f"{extra} installs nothing"


@pytest.mark.parametrize("extra", DRIVERS)
def test_a_missing_driver_is_named_with_its_command(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from eventq.storage import load_driver

    monkeypatch.setitem(sys.modules, DRIVERS[extra], None)  # as if it were not installed
    with pytest.raises(eventq.MissingExtra, match="needs an extra") as caught:
        load_driver(DRIVERS[extra], extra, f"what {extra} does")
    assert str(caught.value) == f"what {extra} does needs an extra: pip install 'eventq[{extra}]'"
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize(
    ("url", "extra"),
    [("redis://127.0.0.1", "redis"), ("rediss://127.0.0.1", "redis"), ("postgresql://u:secret@127.0.0.1/db", "sql")],
)
def test_a_url_whose_driver_is_missing_is_one_line_that_installs_it(
    url: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, DRIVERS[extra], None)
    with pytest.raises(eventq.MissingExtra) as caught:
        eventq.App(url)
    assert str(caught.value) == f"{url.partition(':')[0]}:// needs an extra: pip install 'eventq[{extra}]'"


def test_drivers_are_imported_only_when_a_url_asks_for_them(tmp_path: Path) -> None:
    code = (
        "import sys, eventq; eventq.App(sys.argv[1]).close(); eventq.App('memory://').close();"
        "print({'redis', 'psycopg', 'sqlite3'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "store")]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip() == "set()"


def test_the_code_names_only_extras_that_exist() -> None:
    for path in (ROOT / "eventq").rglob("*.py"):
        text = path.read_text("utf-8")
        if "load_driver" not in text and "MissingExtra" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called not in ("load_driver", "MissingExtra"):
                continue
            assert isinstance(node, ast.Call)
            extra = node.args[1]
            if isinstance(extra, ast.Constant):
                assert extra.value in EXTRAS, f"{path.name}:{node.lineno} names an unknown extra"


def test_the_version_stands_in_one_place() -> None:
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", eventq.__version__)
