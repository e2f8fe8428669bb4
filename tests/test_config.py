"""Configuration: which place wins, what each may say, and what is said about a mistake."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventq
from eventq import App, ConfigError, MsgpackCodec
from eventq.config import AppConfig, Config, QueueSettings, combine, queue_settings, task_options
from eventq.options import TaskOptions, checked
from eventq.sources import (
    NOT_CONFIGURATION,
    OF_THE_CALL,
    OF_THE_FUNCTION,
    TASK_FORMS,
    from_environment,
    from_file,
    nearest_file,
    read_config,
)
from eventq.storage import DEFAULT_URL
from eventq.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PACKAGE = Path(eventq.__file__).parent


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes the pyproject.toml of a folder, which becomes the working directory; no variable is set."""
    for name in [name for name in os.environ if name.startswith("EVENTQ_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        path = tmp_path / "pyproject.toml"
        path.write_text(text)
        return path

    return write


def env(**variables: str) -> dict[str, str]:
    return {f"EVENTQ_{name}": value for name, value in variables.items()}


# ---------------------------------------------------------------- which place wins


def test_defaults(project: Callable[[str], Path]) -> None:
    project("")
    assert read_config() == Config(url=DEFAULT_URL)


@pytest.mark.parametrize("said", list(itertools.product([False, True], repeat=3)))
def test_the_strongest_place_wins(said: tuple[bool, bool, bool], project: Callable[[str], Path]) -> None:
    in_program, in_environment, in_file = said
    project("[tool.eventq]\nconcurrency = 3" if in_file else "")
    config = read_config(
        {"concurrency": 1} if in_program else {}, environ=env(CONCURRENCY="2") if in_environment else {}
    )
    assert config.concurrency == next((value for value, there in zip((1, 2, 3), said, strict=True) if there), 8)


def test_each_option_comes_from_its_own_place(project: Callable[[str], Path]) -> None:
    project("[tool.eventq]\nprocesses = 3\nstop_timeout = 4\nconcurrency = 5")
    config = read_config({"executor": "process"}, environ=env(STOP_TIMEOUT="2.5", CONCURRENCY=""))
    assert (config.executor, config.stop_timeout, config.processes, config.concurrency) == ("process", 2.5, 3, 5)


PLACES = ("App(tasks=)", "EVENTQ_TASK_*", "[tool.eventq.tasks]", "decorator")
"""Below `using()`, strongest first."""
KINDS: dict[str, tuple[list[Any], list[str]]] = {
    "max_attempts": ([1, 2, 3, 4], ["1", "2", "3", "4"]),
    "timeout": ([1.5, 2.5, 3.5, 4.5], ["1.5", "2.5", "3.5", "4.5"]),
    "queue": (["a", "b", "c", "d"], ["a", "b", "c", "d"]),
    "jitter": ([True, False, True, False], ["true", "false", "true", "false"]),
    "backoff": (["linear", "constant", "exponential", "linear"], ["linear", "constant", "exponential", "linear"]),
    "retry_delay": ([[1.0], [2.0, 3.0], [4.0], [5.0]], ["[1]", "2,3", "[4]", "[5]"]),
    "limits": ([{"a": 1}, {"b": 2}, {"c": 3}, {"d": 4}], ['{"a": 1}', '{"b": 2}', '{"c": 3}', '{"d": 4}']),
    "rates": (
        [{"a": (1, 5.0)}, {"b": (2, 60.0)}, {"c": (3, 0.5)}, {"d": (4, 1.0)}],
        ['{"a": [1, 5]}', '{"b": [2, 60]}', '{"c": [3, 0.5]}', '{"d": [4, 1]}'],
    ),
    "retry_for": (
        [(OSError,), (KeyError, ValueError), (TypeError,), (LookupError,)],
        ["OSError", "KeyError,ValueError", "TypeError", "LookupError"],
    ),
}


def toml(value: Any) -> str:
    if isinstance(value, tuple):
        value = [each.__name__ if isinstance(each, type) else each for each in value]
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(each)}" for name, each in value.items()) + " }"
    return msgspec.json.encode(value).decode()


@pytest.mark.parametrize("option", KINDS)
@pytest.mark.parametrize("strongest", range(4), ids=PLACES)
def test_task_options_row_by_row(option: str, strongest: int, project: Callable[[str], Path]) -> None:
    """The place and all those below it say something: it wins over each of its neighbours below."""
    values, texts = KINDS[option]
    project(f"[tool.eventq.tasks.'*']\n{option} = {toml(values[2])}" if strongest <= 2 else "")
    config = read_config(
        {"tasks": {"*": {option: values[0]}}} if strongest == 0 else {},
        environ={f"EVENTQ_TASK_{option.upper()}": texts[1]} if strongest <= 1 else {},
    )
    assert task_options(config, "shop.mail", {option: values[3]}) == {option: values[strongest]}


@pytest.mark.parametrize(("upper", "lower"), list(itertools.pairwise(range(4))))
def test_neighbours_add_up(upper: int, lower: int, project: Callable[[str], Path]) -> None:
    """Two places that speak of different options are both heard."""
    said = {upper: ("max_attempts", 7), lower: ("priority", 5)}
    name, value = said.get(2, ("", 0))
    project(f'[tool.eventq.tasks."*"]\n{name} = {value}' if name else "")
    name, value = said.get(1, ("", 0))
    environ = {f"EVENTQ_TASK_{name.upper()}": str(value)} if name else {}
    config = read_config({"tasks": {"*": dict([said[0]])}} if 0 in said else {}, environ=environ)
    decorated = dict([said[3]]) if 3 in said else {}
    assert task_options(config, "shop.mail", decorated) == {"max_attempts": 7, "priority": 5}


def test_a_name_beats_the_star_of_its_own_place_only(project: Callable[[str], Path]) -> None:
    project(
        '[tool.eventq.tasks."*"]\nmax_attempts = 2\ntimeout = 2\n'
        '[tool.eventq.tasks."shop.mail"]\nmax_attempts = 3\ntimeout = 3\nkeep = 3'
    )
    config = read_config(environ=env(TASK_TIMEOUT="9"))
    assert task_options(config, "shop.mail", {"keep": 1}) == {"max_attempts": 3, "timeout": 9.0, "keep": 3.0}
    assert task_options(config, "shop.other", {"keep": 1}) == {"max_attempts": 2, "timeout": 9.0, "keep": 1}


def test_none_is_a_value_and_beats_what_is_below() -> None:
    assert task_options(read_config(environ=env(TASK_TIMEOUT="none")), "t", {"timeout": 5.0}) == {"timeout": None}
    assert read_config({"max_tasks": None}, environ=env(MAX_TASKS="5")).max_tasks is None


PLACE = st.dictionaries(
    st.sampled_from(["*", "a", "b"]), st.dictionaries(st.sampled_from(["x", "y"]), st.integers(), max_size=2)
)


@given(st.lists(PLACE, min_size=1, max_size=4), st.sampled_from(["a", "b", "c"]))
def test_merging_is_the_same_as_asking_each_place_in_turn(places: list[dict[str, Any]], name: str) -> None:
    decorated = {"x": "decorated"}
    expected: dict[str, Any] = {}
    for option in ("x", "y"):
        asked = [place.get(who, {}) for place in places for who in (name, "*")]
        for options in [*asked, decorated]:
            if option in options:
                expected[option] = options[option]
                break
    config = combine(*({"tasks": place} for place in places))
    assert task_options(config, name, decorated) == expected
    assert decorated == {"x": "decorated"}


def test_queue_settings_are_merged_by_name(project: Callable[[str], Path]) -> None:
    project("[tool.eventq.queues.mails]\nmax_attempts = 5\nlease = 60\n[tool.eventq.queues.other]\nkeep = 1")
    config = read_config({"queues": {"mails": {"lease": 30}}})
    assert queue_settings(config, "mails", {}) == {"max_attempts": 5, "lease": 30.0}
    assert queue_settings(config, "mails", {"max_attempts": 1}) == {"max_attempts": 1, "lease": 30.0}
    assert queue_settings(config, "third", {"keep": 2.0}) == {"keep": 2.0}


# ---------------------------------------------------------------- the app


def test_an_app_reads_when_it_is_made_and_not_again(
    project: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    project('[tool.eventq]\nurl = "memory://"\nconcurrency = 3')
    with App() as app:
        assert (app.config.url, app.config.concurrency) == ("memory://", 3)
        monkeypatch.setenv("EVENTQ_CONCURRENCY", "4")
        assert app.config.concurrency == 3
        with App("memory://", processes=2) as other:
            assert (other.config.concurrency, other.config.processes) == (4, 2)


def test_a_path_in_a_file_is_relative_to_it(project: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = project('[tool.eventq]\nurl = "var/queue"')
    (path.parent / "src" / "deep").mkdir(parents=True)
    (path.parent / "var").mkdir()
    monkeypatch.chdir(path.parent / "src" / "deep")
    with App() as app:
        app.queue("q").put(1)
    assert app.config.url == str(path.parent / "var" / "queue")
    assert (path.parent / "var" / "queue" / "queues" / "q").is_dir()
    project('[tool.eventq]\nurl = "sqlite:///var/queue.db?synchronous=normal"')
    with App() as app:
        app.queue("q").put(1)
    assert (path.parent / "var" / "queue.db").is_file()
    project('[tool.eventq]\nurl = "sqlite:////elsewhere/queue.db"')
    assert read_config().url == "sqlite:////elsewhere/queue.db"
    assert read_config(environ=env(URL="here")).url == "here"


def test_sync_is_of_file_stores(project: Callable[[str], Path]) -> None:
    project("[tool.eventq]\nsync = false")
    assert read_config().sync is False
    assert read_config(environ=env(URL="memory://")).sync is None
    with App("memory://") as app:
        assert app.config.sync is None
    with pytest.raises(ConfigError, match="file stores"):
        App("memory://", sync=True)
    with App(storage=MemoryStorage()) as app:
        assert (app.config.url, app.config.sync) == ("", None)


@pytest.mark.parametrize("name", ["YAML", "INSTANCE"])
def test_a_codec_by_its_dotted_name(
    name: str, project: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config_codecs.py").write_text(
        "import eventq\nclass YAML(eventq.JSONCodec):\n    name = 'yaml'\nINSTANCE = YAML()"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "config_codecs", raising=False)
    project(f'[tool.eventq]\nurl = "memory://"\ncodec = "config_codecs:{name}"')
    with App() as app:
        assert app.store.codec.name == "yaml"
        id = app.queue("q").put([1])
        record = app.get(id)
        assert record is not None
        assert record.codec == "yaml"
    with App(codec="msgpack") as app:
        assert app.store.codec.name == "msgpack"
    with App(codec=MsgpackCodec()) as app:
        assert isinstance(app.config.codec, MsgpackCodec)


def test_classes_are_named_in_configuration_only() -> None:
    with pytest.raises(ConfigError, match="config_codecs:YAML"):
        App("memory://", codec="config_codecs:YAML")


def test_the_config_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Config().concurrency = 2  # type: ignore[misc]


# ---------------------------------------------------------------- what the environment says


@pytest.mark.parametrize(
    ("variables", "field", "value"),
    [
        (env(URL="memory://x"), "url", "memory://x"),
        (env(SYNC="0"), "sync", False),
        (env(SYNC="True"), "sync", True),
        (env(CODEC="msgpack"), "codec", "msgpack"),
        (env(WORKER_QUEUES="mails"), "worker_queues", ("mails",)),
        (env(WORKER_QUEUES="mails, default,"), "worker_queues", ("mails", "default")),
        (env(CONCURRENCY="12"), "concurrency", 12),
        (env(EXECUTOR="process"), "executor", "process"),
        (env(PROCESSES="2"), "processes", 2),
        (env(STOP_TIMEOUT="0"), "stop_timeout", 0.0),
        (env(MAX_TASKS="1000"), "max_tasks", 1000),
        (env(MAX_TASKS="None"), "max_tasks", None),
        (env(MAX_BYTES="1000000000"), "max_bytes", 10**9),
        (env(LOG_LEVEL="WARNING"), "log_level", "warning"),
        (env(CONCURRENCY=""), "concurrency", 8),
    ],
)  # fmt: skip
def test_variables(variables: dict[str, str], field: str, value: Any, project: Callable[[str], Path]) -> None:
    project("")
    found = getattr(read_config(environ=variables), field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("unique", "60", 60.0),
        ("unique", "waiting", "waiting"),
        ("retry_delay", "1,5,30", [1.0, 5.0, 30.0]),
        ("retry_delay", "[1, 5]", [1.0, 5.0]),
        ("retry_delay", "2", 2.0),
        ("headers", '{"tenant": [1, null]}', {"tenant": [1, None]}),
        ("retry_for", "http.client:HTTPException", "HTTPException"),
        ("executor", "none", None),
    ],
)
def test_variables_of_tasks(option: str, text: str, value: Any) -> None:
    found = from_environment({f"EVENTQ_TASK_{option.upper()}": text})["tasks"]["*"][option]
    assert ([each.__name__ for each in found] == [value]) if option == "retry_for" else found == value


def test_a_misspelt_variable_is_not_silent() -> None:
    for variable, meant in [
        ("EVENTQ_CONCURENCY", "EVENTQ_CONCURRENCY"),
        ("EVENTQ_TASK_MAX_ATEMPTS", "EVENTQ_TASK_MAX_ATTEMPTS"),
    ]:
        with pytest.raises(ConfigError, match=f"the environment.*'{variable}'; did you mean '{meant}'") as caught:
            read_config(environ={variable: ""})
        assert "EVENTQ_URL" in str(caught.value)


def test_other_variables_are_left_alone() -> None:
    given = {"PATH": "x", "eventq_url": "y", "MY_EVENTQ_URL": "z", **dict.fromkeys(NOT_CONFIGURATION, "1")}
    assert from_environment(given) == {}


def test_every_variable_of_the_package_is_known() -> None:
    known = {f"EVENTQ_{name.upper()}" for name in Config.__struct_fields__} | NOT_CONFIGURATION.keys()
    known |= {f"EVENTQ_TASK_{name.upper()}" for name in TASK_FORMS}
    texts = [path.read_text("utf-8") for suffix in ("py", "md") for path in PACKAGE.rglob(f"*.{suffix}")]
    used = {name for text in texts for name in re.findall(r"\bEVENTQ_[A-Z_]*[A-Z]\b", text)}
    assert used - {"EVENTQ_TASK"} <= known
    for name in used - NOT_CONFIGURATION.keys() - {"EVENTQ_TASK"}:
        from_environment({name: ""})


# ---------------------------------------------------------------- what a file says


def test_the_nearest_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[tool.eventq]\nconcurrency = 2")
    assert nearest_file(str(inner)) == str(tmp_path / "pyproject.toml")
    assert read_config(environ={}, folder=str(inner)).concurrency == 2
    (tmp_path / "a" / "pyproject.toml").write_text("[project]\nname = 'eventq-user'")
    assert read_config(environ={}, folder=str(inner)).concurrency == 8
    (inner / "pyproject.toml").mkdir()
    assert nearest_file(str(inner)) == str(tmp_path / "a" / "pyproject.toml")
    monkeypatch.chdir(inner)
    assert nearest_file() == str(tmp_path / "a" / "pyproject.toml")
    (inner / "pyproject.toml").rmdir()
    inner.rmdir()
    assert nearest_file() is None


def test_a_whole_file(project: Callable[[str], Path]) -> None:
    path = project(
        """
        [tool.eventq]
        url = "memory://shop"
        sync = true
        worker_queues = ["mails", "default"]
        max_bytes = 500_000_000
        log_level = "debug"
        tasks."*" = { max_attempts = 5 }
        tasks."shop.mail" = { retry_delay = [1, 5, 30], retry_for = ["OSError"] }
        queues.mails = { max_attempts = 5, lease = 60.0, maxsize = 100 }
        """
    )
    assert from_file(str(path)) == {
        "url": "memory://shop",
        "sync": True,
        "worker_queues": ("mails", "default"),
        "max_bytes": 500_000_000,
        "log_level": "debug",
        "tasks": {"*": {"max_attempts": 5}, "shop.mail": {"retry_delay": [1.0, 5.0, 30.0], "retry_for": (OSError,)}},
        "queues": {"mails": {"max_attempts": 5, "lease": 60.0, "maxsize": 100}},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("concurency = 3", ["[tool.eventq] of", "'concurency'", "did you mean 'concurrency'", "stop_timeout"]),
        ("task = 3", ["'task'", "did you mean 'tasks'"]),
        ("concurrency = '3'", ["concurrency in [tool.eventq] of", "'3'", "a whole number of 1 or more"]),
        ("concurrency = 0", ["concurrency", "a whole number of 1 or more"]),
        ("concurrency = true", ["concurrency", "a whole number"]),
        ("sync = 'yes'", ["sync", "true or false"]),
        ("stop_timeout = -1", ["stop_timeout", "a number of 0 or more"]),
        ("executor = 'fork'", ["executor", "'fork'", "inline or process or thread"]),
        ("worker_queues = 'mails'", ["worker_queues", "a list, each of it a text"]),
        ("worker_queues = [1]", ["worker_queues", "of type list"]),
        ("url = 5", ["url", "a text"]),
        ("tasks = 5", ["[tool.eventq.tasks]", "a table"]),
        ("tasks.mail = 5", ["[tool.eventq.tasks]", "a table"]),
        ("tasks.'*'.max_atempts = 5", ['[tool.eventq.tasks."*"]', "'max_atempts'", "did you mean 'max_attempts'"]),
        ("tasks.'*'.max_attempts = 0", ['max_attempts in [tool.eventq.tasks."*"] of', "a whole number of 1 or more"]),
        ("tasks.shop.mail.timeout = 5", ['stands in quotes: [tool.eventq.tasks."shop.mail"]']),
        ("tasks.mail.key = 'x'", ["'key'", "task.using(key=...)"]),
        ("tasks.mail.bind = true", ["'bind'", "@app.task(bind=...)"]),
        ("tasks.mail.on_success = 'x'", ["'on_success'", "@app.task(on_success=...)"]),
        ("tasks.mail.retry_for = ['NoError']", ["retry_for in", "'builtins:NoError'", "has no 'NoError'"]),
        ("tasks.mail.retry_for = ['len']", ["retry_for in", "no exception class"]),
        ("tasks.mail.retry_for = 'OSError'", ["retry_for in", "a list, each of it a text"]),
        ("queues.mails.max_attempt = 5", ["[tool.eventq.queues.mails]", "did you mean 'max_attempts'"]),
        ("queues.mails.lease = 0", ["lease in [tool.eventq.queues.mails] of", "a number above 0"]),
        ("queues.mails.paused = true", ["'paused'", "max_attempts"]),
        ("queues.'*'.lease = 5", ["one queue each"]),
        ("codec = 'yaml'", ["codec in [tool.eventq]", "'yaml'", "json, msgpack", "module:Class"]),
        ("codec = 'no_such_module_here:YAML'", ["importing no_such_module_here failed"]),
        ("codec = 'json:YAML'", ["json has no 'YAML'", "a module that does not make the app"]),
    ],
)  # fmt: skip
def test_mistakes_in_a_file(text: str, words: list[str], project: Callable[[str], Path]) -> None:
    path = project(f"[tool.eventq]\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        App("memory://")
    for word in [*words, str(path)]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (env(CONCURRENCY="eight"), ["EVENTQ_CONCURRENCY in the environment is 'eight'", "a whole number of 1 or more"]),
        (env(SYNC="yes"), ["EVENTQ_SYNC", "true or false"]),
        (env(LOG_LEVEL="loud"), ["EVENTQ_LOG_LEVEL", "warning"]),
        (env(TASK_HEADERS="{"), ["EVENTQ_TASK_HEADERS", "not JSON", "a table"]),
        (env(TASK_TIMEOUT="0"), ["EVENTQ_TASK_TIMEOUT", "a number above 0", "none"]),
        (env(TASK_TIMEOUT="inf"), ["EVENTQ_TASK_TIMEOUT", "a number above 0"]),
        (env(TASK_RETRY_FOR="Nothing"), ["EVENTQ_TASK_RETRY_FOR", "Nothing"]),
        (env(CODEC="x"), ["EVENTQ_CODEC", "json, msgpack"]),
    ],
)
def test_mistakes_in_the_environment(
    variables: dict[str, str], words: list[str], project: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    project("")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        App("memory://")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"concurrency": "8"}, ["App(concurrency=...)", "'8'", "a whole number"]),
        ({"worker_queues": "mails"}, ["App(worker_queues=...)", "a list"]),
        ({"tasks": {"*": {"max_atempts": 3}}}, ["App(tasks={'*': ...})", "did you mean 'max_attempts'"]),
        ({"tasks": {"mail": 3}}, ["App(tasks=...)", "a table"]),
        ({"queues": {"mails": {"maxsize": 0}}}, ["App(queues={'mails': ...})", "a whole number of 1 or more"]),
    ],
)
def test_mistakes_in_the_program(arguments: dict[str, Any], words: list[str], project: Callable[[str], Path]) -> None:
    project("")
    with pytest.raises(ConfigError) as caught:
        App("memory://", **arguments)
    for word in words:
        assert word in str(caught.value)


def test_unknown_arguments_are_type_errors() -> None:
    with pytest.raises(TypeError, match=r"'concurency'.*concurrency"):
        App("memory://", concurency=3)  # type: ignore[call-arg]


def test_broken_files(project: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = project("[tool.eventq\n")
    with pytest.raises(ConfigError, match=f"{re.escape(str(path))} is not TOML"):
        read_config()
    path.write_bytes(b"[tool.eventq]\nurl = '\xff'")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_config()
    project("[tool]\neventq = 5")
    with pytest.raises(ConfigError, match=r"write \[tool.eventq\]"):
        read_config()
    project("this is not TOML, and not about us")
    assert read_config() == Config(url=DEFAULT_URL)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ConfigError, match="Permission denied"):
        read_config()


# ---------------------------------------------------------------- nothing is forgotten


def test_an_app_takes_what_the_config_has() -> None:
    assert set(AppConfig.__annotations__) == set(Config.__struct_fields__) - {"url", "sync"} | {"codecs", "clock"}


def test_defaults_fit_their_types() -> None:
    for field in msgspec.structs.fields(Config):
        if field.name != "codec":
            assert msgspec.convert(getattr(Config(), field.name), field.type) == getattr(Config(), field.name)


def test_every_field_is_documented() -> None:
    source = (PACKAGE / "config.py").read_text("utf-8")
    for cls in (Config, AppConfig):
        body = source.split(f"class {cls.__name__}(")[1].split("\n\n\n")[0]
        for name in cls.__annotations__:
            assert re.search(rf'^    {name}: .*\n    """', body, re.MULTILINE), f"{cls.__name__}.{name}"


def test_every_task_option_is_either_configurable_or_said_why_not() -> None:
    functions = {"state", "on_success", "on_failure", "on_retry", "on_complete"}
    others = OF_THE_CALL | OF_THE_FUNCTION | functions
    assert TASK_FORMS.keys() | others == TaskOptions.__annotations__.keys() | OF_THE_FUNCTION


@pytest.mark.parametrize("option", TASK_FORMS)
def test_what_configuration_takes_the_task_takes(option: str) -> None:
    samples: Mapping[str, str] = {
        "queue": "q", "priority": "5", "unique": "waiting", "if_exists": "raise", "limits": '{"a": 1}',
        "rates": '{"a": [1, 60]}', "headers": '{"a": 1}', "backoff": "linear", "jitter": "false",
        "retry_for": "OSError", "dont_retry_for": "KeyError,ValueError", "result": "false", "executor": "process",
        "ack": "early", "capture": "false",
    }  # fmt: skip
    said = from_environment({f"EVENTQ_TASK_{option.upper()}": samples.get(option, "1")})
    assert checked({"name": "shop.mail", **task_options(combine(said), "shop.mail", {})}) != checked(
        {"name": "shop.mail"}
    ) or option in ("max_attempts", "retry_delay", "max_crashes")


def test_queue_settings_have_the_forms_of_the_stored_ones(project: Callable[[str], Path]) -> None:
    for setting in QueueSettings.__annotations__:
        project(f"[tool.eventq.queues.q]\n{setting} = 1")
        assert read_config().queues == {"q": {setting: 1}}


def test_importing_reads_nothing(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.eventq\n")
    done = subprocess.run(
        [sys.executable, "-c", "import eventq, sys; print('tomllib' in sys.modules)"],
        cwd=tmp_path,
        env={**os.environ, "EVENTQ_NO_SUCH": "1", "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "False\n"
