"""What holds the modules apart: layers, who may touch the disk, the clock and the event loop, and sizes.

The source is read with `ast`; two tests also import the package in a fresh interpreter. A test that fails
here names the file, the line and the rule. Exceptions stand in this file, each with its reason; one that
nothing needs any more fails as well.
"""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "eventq"

LAYERS = [line.split() for line in """\
model errors codec ids clock retry config bridge wakeup
storage
store claim handle inbox put queue lock disabled entries
arguments options notifications middleware context stream capture task run child process observe
worker schedule workflow topic rpc notify
job
app aio sources supervisor cli demo server contrib testing __main__ __init__
""".splitlines()]
"""Lowest first. A module imports its own layer and those below it."""

STRANGERS = (LAYERS[4],)
"""Layers whose modules never import each other."""

STORAGE_SEAM = ("storage", "storage.base")
"""All of `storage` that the layers above may name; implementations are reached by URL, and share a bit more:"""
_SHARED = ("bells", "bounds", "checks", "endings", "forks", "observed", "restored")
STORAGE_SHARED = (*STORAGE_SEAM, *(f"storage.{name}" for name in _SHARED))

# fmt: off
DISK_MODULES = {
    "dbm", "fcntl", "filelock", "fileinput", "glob", "linecache", "mmap", "pathlib", "shelve", "shutil", "sqlite3",
    "tempfile"}
DISK_OS = {
    "access", "chdir", "chmod", "chown", "fchmod", "fdatasync", "fsync", "ftruncate", "fwalk", "getcwd",
    "link", "listdir", "lstat", "makedirs", "mkdir", "mkfifo", "mknod", "open", "posix_fallocate", "pread",
    "pwrite", "readlink", "remove", "removedirs", "rename", "renames", "replace", "rmdir", "scandir",
    "sendfile", "stat", "statvfs", "symlink", "sync", "truncate", "unlink", "utime", "walk", "path.exists",
    "path.getmtime", "path.getsize", "path.isdir", "path.isfile", "path.islink", "path.lexists",
    "path.realpath",
}
# fmt: on
"""The calls of `os` that reach a file system; `read`, `write` and `close` serve pipes as well."""
DISK_ATTRIBUTES = {name.rpartition(".")[2] for name in DISK_OS}

DISK_EXCEPTIONS: dict[str, str] = {
    "cli.bench": "measures in a temporary store, beside the one it is asked about",
    "cli.demo": "makes a temporary store and removes it",
    "cli.survey": "reads the files that the demo's job is about",
    "cli.transfer": "writes and reads the file that the user named",
    "sources": "reads the configuration in the nearest pyproject.toml",
    "storage.sql": "opens the database file, and keeps what tells of living workers beside it",
    "supervisor": "looks whether source files have changed, with --reload",
}
"""Modules (with what is below them) outside `storage/file/` that may touch the disk, and why."""

HANDED_DOWN = {"app", "worker"}
"""What those below are handed by them, and may name for type checkers only."""
VIEWS = "aio"
"""Above what it looks at; each `.aio` property makes its view, and imports it then."""

CLOCK_MODULE = "clock"
ASYNC_OWNERS: dict[str, str] = {
    "bridge": "the one place where a sync call becomes an awaitable",
    "aio": "a worker that is awaited stops before its await ends",
    "worker.loop": "the event loop on which a worker runs async tasks",
}
"""Modules that may import asyncio, inside functions only: importing eventq must not pay for it."""

BANNED_NAMES = re.compile(r"utils?|helpers?|managers?|common|misc|base_.*|.*_(utils?|helpers?|managers?)")

TOP_LEVEL = {*".ci .gitignore LICENSE README.md benchmarks eventq examples pyproject.toml tests".split()}  # noqa: SIM905


# ---------------------------------------------------------------- reading the source


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def dotted(path: Path) -> str:
    """`storage.file.room` for eventq/storage/file/room.py; a package is named without its `__init__`."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


MODULES = {dotted(path): path for path in sources("eventq")}


def where(module: str, node: ast.AST) -> str:
    return f"eventq/{MODULES[module].relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"


def layer(module: str) -> int:
    top = module.partition(".")[0]
    for number, names in enumerate(LAYERS):
        if top in names:
            return number
    raise AssertionError(f"eventq/{top} has no layer; give it one in LAYERS of {Path(__file__).name}")


def inside(module: str, owner: str) -> bool:
    return module == owner or module.startswith(owner + ".")


def own(name: str) -> str:
    """The module of this package that an absolute import names, without the leading `eventq.`."""
    rest = name.removeprefix("eventq").lstrip(".")
    return rest or "__init__"


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


@cache
def walk(tree: ast.AST, *, functions: bool = True, typing: bool = True) -> tuple[ast.AST, ...]:
    """Every node below; without what only runs in a function, or only for type checkers, when told so."""
    if functions and typing:
        return tuple(ast.walk(tree))
    return tuple(nodes_below(tree, functions, typing))


def nodes_below(node: ast.AST, functions: bool, typing: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not functions:
            if not isinstance(child, ast.Lambda):  # decorators and defaults do run at import
                for early in [*child.decorator_list, *child.args.defaults, *child.args.kw_defaults]:
                    if early is not None:
                        yield early
                        yield from nodes_below(early, functions, typing)
            continue
        if isinstance(child, ast.If) and is_type_checking(child.test) and not typing:
            for branch in child.orelse:
                yield branch
                yield from nodes_below(branch, functions, typing)
            continue
        yield child
        yield from nodes_below(child, functions, typing)


def imports(tree: ast.AST, *, functions: bool = True, typing: bool = True) -> Iterator[tuple[ast.stmt, str]]:
    """(statement, dotted name) for each import; `from a import b` gives `a.b`, a module or a name in one."""
    for node in walk(tree, functions=functions, typing=typing):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the whole name"
            for alias in node.names:
                yield node, f"{node.module}.{alias.name}"


def own_imports(
    module: str, *, functions: bool = True, typing: bool = True
) -> Iterator[tuple[ast.stmt, str]]:
    """(statement, module of this package) for each import of this package."""
    for node, name in imports(parse(MODULES[module]), functions=functions, typing=typing):
        if name.split(".")[0] != "eventq":
            continue
        target = own(name)
        while target not in MODULES and "." in target:  # drop the trailing class or function
            target = target.rpartition(".")[0]
        yield node, target if target in MODULES else "__init__"


def report(findings: list[str]) -> None:
    assert not findings, "\n  " + "\n  ".join(findings)


# ---------------------------------------------------------------- layers


def test_every_module_has_a_layer() -> None:
    for module in MODULES:
        layer(module)


def for_typing_only(module: str) -> set[int]:
    tree = parse(MODULES[module])
    return {id(node) for node, _ in imports(tree)} - {id(node) for node, _ in imports(tree, typing=False)}


def test_imports_go_down() -> None:
    report(
        [
            f"{where(module, node)} imports eventq.{target}, which is above it"
            for module in MODULES
            for node, target in own_imports(module)
            if layer(target) > layer(module) and target != VIEWS
            and not (target in HANDED_DOWN and id(node) in for_typing_only(module))
        ]
    )


def test_the_views_are_imported_when_used() -> None:
    report(
        [
            f"{where(module, node)} imports eventq.{VIEWS} before anybody asked for a view"
            for module in MODULES
            for node, target in own_imports(module, functions=False, typing=False)
            if target == VIEWS
        ]
    )


def test_no_import_cycle() -> None:
    graph = {
        module: {
            target
            for _, target in own_imports(module, functions=False, typing=False)
            if target != module and not inside(module, target)
        }
        for module in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_storages_import_only_the_seam_and_the_pure_modules() -> None:
    """No storage knows another; only `storage/__init__`, which opens them by URL, names them."""
    findings = []
    for module in MODULES:
        if not inside(module, "storage") or module == "storage":
            continue
        implementation = ".".join(module.split(".")[:2])
        for node, target in own_imports(module):
            if layer(target) == 0 or target in STORAGE_SHARED or inside(target, implementation):
                continue
            findings.append(f"{where(module, node)} imports eventq.{target}")
    report(findings)


def test_storages_are_imported_only_when_opened() -> None:
    report(
        [
            f"{where('storage', node)} imports eventq.{target} before its URL is used"
            for node, target in own_imports("storage", functions=False)
            if target not in STORAGE_SEAM and layer(target) > 0
        ]
    )


def test_shared_code_knows_only_the_seam() -> None:
    """What imports a storage by name would not work with the others; only the shell around the engine may."""
    findings = [
        f"{where(module, node)} imports eventq.{target}; the layers below app know only storage.base"
        for module in MODULES
        if not inside(module, "storage") and layer(module) < len(LAYERS) - 1
        for node, target in own_imports(module)
        if inside(target, "storage") and target not in STORAGE_SEAM
    ]
    report(findings)


def test_strangers_do_not_import_each_other() -> None:
    findings = []
    for names in STRANGERS:
        for module in MODULES:
            top = module.split(".")[0]
            if top not in names:
                continue
            for node, target in own_imports(module):
                if target.split(".")[0] in names and target.split(".")[0] != top:
                    findings.append(f"{where(module, node)} imports eventq.{target}")
    report(findings)


# ---------------------------------------------------------------- disk, clock, event loop


def disk_uses(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Whatever reaches the file system: modules made for it, calls of `os` with a path, `open`."""
    for statement, name in imports(tree, typing=False):
        if name.partition(".")[0] in DISK_MODULES or name == "io.open" or is_disk_call(name):
            yield statement, name
    for node in walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in DISK_ATTRIBUTES:
            name = ast.unparse(node)
            if is_disk_call(name) or name == "io.open":
                yield node, name
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            yield node, "open()"


def is_disk_call(name: str) -> bool:
    head, _, tail = name.partition(".")
    return head == "os" and tail in DISK_OS


def test_only_the_file_storage_touches_the_disk() -> None:
    findings, needed = [], set()
    for module, path in MODULES.items():
        if inside(module, "storage.file"):
            continue
        excepted = [owner for owner in DISK_EXCEPTIONS if inside(module, owner)]
        for node, what in disk_uses(parse(path)):
            needed.update(excepted)
            if not excepted:
                findings.append(f"{where(module, node)} uses {what}; that belongs to eventq/storage/file/")
    report(findings)
    present = {owner for owner in DISK_EXCEPTIONS if any(inside(module, owner) for module in MODULES)}
    assert present <= needed, f"no longer needed, remove from DISK_EXCEPTIONS: {sorted(present - needed)}"


def clock_uses(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    for statement, name in imports(tree):
        if name == "time" or name.startswith("time."):
            yield statement, name
    for node in walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today"):
            owner = ast.unparse(node.value)
            if owner in ("datetime", "date", "datetime.datetime", "datetime.date"):
                yield node, f"{owner}.{node.attr}"


def test_only_the_clock_knows_the_time() -> None:
    report(
        [
            f"{where(module, node)} uses {what}; ask eventq.clock"
            for module, path in MODULES.items()
            if module != CLOCK_MODULE
            for node, what in clock_uses(parse(path))
        ]
    )


def test_asyncio_stays_with_its_owners() -> None:
    findings, needed = [], set()
    for module, path in MODULES.items():
        early = {id(node) for node, _ in imports(parse(path), functions=False, typing=False)}
        owners = [owner for owner in ASYNC_OWNERS if inside(module, owner)]
        for node, name in imports(parse(path), typing=False):
            if name.partition(".")[0] != "asyncio":
                continue
            needed.update(owners)
            if not owners:
                findings.append(f"{where(module, node)} imports asyncio; go through eventq.bridge")
            elif id(node) in early:
                findings.append(f"{where(module, node)} imports asyncio at import; do it inside the function")
    report(findings)
    present = {owner for owner in ASYNC_OWNERS if owner in MODULES}
    assert present <= needed, f"no longer needed, remove from ASYNC_OWNERS: {sorted(present - needed)}"


# ---------------------------------------------------------------- import time


def test_importing_does_nothing() -> None:
    """At import: no file opened, no thread or process started, no environment read."""
    banned = {"os.environ", "os.environb", "os.getenv", "os.fork", "os.pipe", "os.system"}
    starters = {"Thread", "Timer", "ThreadPoolExecutor", "ProcessPoolExecutor", "Process", "Popen", "open"}
    findings = []
    for module, path in MODULES.items():
        for node in walk(parse(path), functions=False):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in banned:
                findings.append(f"{where(module, node)} uses {ast.unparse(node)} at import")
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called.rpartition(".")[2] in starters or is_disk_call(called):
                    findings.append(f"{where(module, node)} calls {called} at import")
    report(findings)


WATCHED_IMPORT = """
import os, sys, threading
import filelock, msgspec, filelock._api, filelock._unix
import argparse, asyncio, subprocess, tempfile, psycopg, redis  # what others do at import is their own

def reader():
    return sys._getframe(2).f_globals.get("__name__", "")

class Environment(dict):
    def __getitem__(self, name):
        assert not reader().startswith("eventq"), "environment read at import"
        return dict.__getitem__(self, name)
    def get(self, name, default=None):
        assert not reader().startswith("eventq"), "environment read at import"
        return dict.get(self, name, default)

os.environ = Environment(os.environ)

def audit(event, args):
    if event == "open" and not str(args[0]).endswith((".py", ".pyc")) and ".pyc." not in str(args[0]):
        raise AssertionError(f"opened at import: {args[0]!r}")
    if event in ("os.mkdir", "os.rename", "subprocess.Popen", "os.fork", "socket.connect", "fcntl.flock"):
        raise AssertionError(f"{event} at import")

def start(thread):
    raise AssertionError("thread started at import")

threading.Thread.start = start
sys.dont_write_bytecode = True
sys.addaudithook(audit)
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)


def printed_by(code: str) -> str:
    done = run_python(code)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_importing_every_module_does_nothing_for_real() -> None:
    """The same, watched while it happens, in one interpreter that audits opens, threads and look-ups."""
    names = [f"eventq.{module}" for module in MODULES if module != "__init__" and not module.endswith("__main__")]
    printed_by(WATCHED_IMPORT + f"for name in {['eventq', *names]}: __import__(name)\n")


WATCHED_CRIMES = """
names = {"__name__": "eventq.x", "os": os, "threading": threading, "open": open}
for crime in crimes:
    try:
        exec(crime, names)
    except AssertionError as error:
        print(error)
    else:
        print("nobody saw", crime)
"""


def test_the_watch_sees_crimes() -> None:
    crimes = {
        "os.environ.get('HOME')": "environment read at import",
        "os.environ['PATH']": "environment read at import",
        "open('/dev/null', 'w')": "opened at import: '/dev/null'",
        "threading.Thread(target=print).start()": "thread started at import",
    }
    printed = printed_by(f"{WATCHED_IMPORT}\ncrimes = {list(crimes)}\n{WATCHED_CRIMES}")
    assert printed.splitlines() == list(crimes.values())


def test_importing_eventq_is_light() -> None:
    """Only filelock, msgspec and what they bring, and the quick part of the standard library."""
    before = set(printed_by("import filelock, msgspec, sys; print(*sys.modules)").split())
    after = set(printed_by("import eventq, sys; print(*sys.modules)").split())
    added = {name.partition(".")[0] for name in after - before} - {"eventq", "filelock", "msgspec"}
    assert not added - set(sys.stdlib_module_names), "importing eventq imports other packages"
    heavy = {
        "argparse",
        "asyncio",
        "concurrent",
        "email",
        "http",
        "multiprocessing",
        "socket",
        "sqlite3",
        "ssl",
    }
    heavy |= {"subprocess", "tempfile", "unittest"}
    assert not added & heavy, "importing eventq imports slow parts of the standard library"


# ---------------------------------------------------------------- shape


@pytest.mark.parametrize("folder", ["eventq", "tests", "benchmarks", "examples"])
def test_files_stay_short(folder: str) -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in sources(folder)}
    report([f"{path}: {lines} lines, at most 600" for path, lines in lengths.items() if lines > 600])


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without its docstring: explaining more must not cost."""
    docstring = ast.get_docstring(function, clean=False)
    own = (function.end_lineno or 0) - function.lineno + 1
    return own if docstring is None else own - len(docstring.split("\n"))


def test_functions_stay_short() -> None:
    report(
        [
            f"{where(module, node)} {node.name}: {lines_of(node)} lines, at most 50"
            for module, path in MODULES.items()
            for node in walk(parse(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_of(node) > 50
        ]
    )


def swallows(handler: ast.ExceptHandler) -> bool:
    caught = "BaseException" if handler.type is None else ast.unparse(handler.type)
    silent = all(ast.unparse(statement) in ("pass", "...", "continue") for statement in handler.body)
    return silent and caught in ("Exception", "BaseException")


def suppressed(call: ast.Call) -> list[str]:
    """The errors that are too many for a `contextlib.suppress`."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    arguments = map(ast.unparse, call.args) if name == "suppress" else ()
    return sorted({"Exception", "BaseException"}.intersection(arguments))


@pytest.mark.parametrize("folder", ["eventq", "tests", "benchmarks", "examples"])
def test_no_error_is_swallowed_whole(folder: str) -> None:
    findings = []
    for path in sources(folder):
        if not re.search("except|suppress", path.read_text("utf-8")):
            continue  # most tests; parsing them takes a while
        for node in walk(parse(path)):
            if isinstance(node, ast.ExceptHandler) and swallows(node):
                findings.append(f"{path.relative_to(ROOT)}:{node.lineno} swallows every error")
            elif isinstance(node, ast.Call) and (names := suppressed(node)):
                findings.append(f"{path.relative_to(ROOT)}:{node.lineno} suppresses {', '.join(names)}")
    report(findings)


def test_modules_are_nouns() -> None:
    named = {part for module in MODULES for part in module.split(".")}
    assert not [name for name in named if BANNED_NAMES.fullmatch(name)]


def test_the_top_level_is_fixed() -> None:
    ignored = [line.strip("/ ") for line in (ROOT / ".gitignore").read_text("utf-8").splitlines()]
    found = {
        path.name
        for path in ROOT.iterdir()
        if path.name != ".git" and not any(fnmatch.fnmatch(path.name, pattern) for pattern in ignored)
    }
    assert found == TOP_LEVEL


# ---------------------------------------------------------------- the rules themselves can fail


@pytest.mark.parametrize(
    ("find", "source"),
    [
        (disk_uses, "import os\ndef f():\n    os.rename('a', 'b')"),
        (disk_uses, "from os import listdir"),
        (disk_uses, "import os\nfound = os.path.exists('a')"),
        (disk_uses, "def f():\n    with open('a') as file:\n        return file"),
        (disk_uses, "def f():\n    from pathlib import Path"),
        (clock_uses, "import time"),
        (clock_uses, "from time import monotonic"),
        (clock_uses, "from datetime import datetime\nnow = datetime.now()"),
    ],
)  # fmt: skip
def test_the_rules_see_what_they_forbid(find: Callable[[ast.Module], Iterator[object]], source: str) -> None:
    assert list(find(ast.parse(source)))


def test_the_rules_leave_the_rest_alone() -> None:
    tree = ast.parse("import os\nos.read(0, 1)\nos.path.join('a')\nos.getpid()\nstore.open('a')\nclock.now()")
    assert not list(disk_uses(tree))
    assert not list(clock_uses(tree))


def test_suppressing_too_much_is_seen() -> None:
    texts = ("suppress(Exception)", "contextlib.suppress(OSError, BaseException)", "suppress(OSError)", "f(Exception)")
    calls = [ast.parse(text, mode="eval").body for text in texts]
    seen = [suppressed(call) for call in calls if isinstance(call, ast.Call)]
    assert seen == [["Exception"], ["BaseException"], [], []]


def test_a_swallowed_error_is_seen() -> None:
    seen = [
        swallows(node)
        for text in (
            "except Exception: pass",
            "except: ...",
            "except OSError: pass",
            "except Exception: log()",
        )
        for node in ast.walk(ast.parse(f"try:\n    f()\n{text}"))
        if isinstance(node, ast.ExceptHandler)
    ]
    assert seen == [True, True, False, False]
