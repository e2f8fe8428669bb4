"""Finding the app that a command names: `shop:app`, `shop`, or `shop.py:app`."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eventq.cli.command import CommandError, store_path, usage
from eventq.config import masked

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from types import ModuleType

    from eventq.app import App

FORMS = "write MODULE:NAME, such as shop:app; MODULE, if there is one app in it; or a path, shop.py:app"


@contextmanager
def loaded_app(args: argparse.Namespace, named: str) -> Iterator[App]:
    """The app, with its module imported. An `App()` without a URL opens the store that `--store` names: here, and in
    the processes that are started meanwhile.

    Ends the command with one line if there is none.
    """
    before = os.environ.get("EVENTQ_URL")
    if args.store:
        os.environ["EVENTQ_URL"] = args.store
    try:
        with _loaded(args, named) as app:
            yield app
    finally:
        if args.store and before is None:
            del os.environ["EVENTQ_URL"]
        elif args.store and before is not None:
            os.environ["EVENTQ_URL"] = before


def _loaded(args: argparse.Namespace, named: str) -> App:
    module_name, _, path = named.partition(":")
    app = _app_in(_imported(module_name, named), path)
    if args.store and app.config.url and _place(app.config.url) != _place(args.store):
        app.close()
        usage(
            f"{named} is an App({masked(app.config.url)!r}), and --store names another store, {masked(args.store)!r}; "
            "leave --store out, or the URL in the code: an App() opens what --store or EVENTQ_URL says"
        )
    return app


def _place(url: str) -> str:
    path = store_path(url)
    return url if path is None else os.path.abspath(path)


def _imported(name: str, named: str) -> ModuleType:
    """The module of that name, or of the file at that path."""
    sys.path[:0] = [here] if (here := os.path.abspath("")) not in sys.path else []
    if os.sep not in name and not name.endswith(".py"):
        if not all(part.isidentifier() for part in name.split(".")):
            usage(f"{named!r} names no module; {FORMS}")
        return _import(name, f"module {name!r}, in {here} or where Python looks", named)
    path = os.path.abspath(name)
    folder, stem = os.path.dirname(path), os.path.basename(path).removesuffix(".py")
    if not stem.isidentifier() or not path.endswith(".py"):
        usage(f"{name!r} is not the path of a Python module; {FORMS}")
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)
    module = _import(stem, f"file {path}", named)
    if os.path.abspath(module.__file__ or "") != path:
        usage(f"{path} cannot be imported as {stem}: that is {module.__file__ or 'built in'} already; rename the file")
    return module


def _import(name: str, what: str, named: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise CommandError(f"importing {name} failed: {_summary(error)}") from error
        usage(f"{named}: there is no {what}; {FORMS}")
    except CommandError:
        raise
    except Exception as error:
        raise CommandError(f"importing {name} failed: {_summary(error)}") from error


def _summary(error: Exception) -> str:
    """The error, and the line of the program that it comes from, in one line."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    text = " ".join(f"{type(error).__name__}: {error}".split())
    ours = [frame for frame in frames if f"eventq{os.sep}" not in frame.filename] or frames
    return f"{text} ({ours[-1].filename}, line {ours[-1].lineno})" if ours else text


def _app_in(module: ModuleType, path: str) -> App:
    from eventq.app import App

    if not path:
        found = {id(thing): name for name, thing in vars(module).items() if isinstance(thing, App)}
        if len(found) != 1:
            names = ", ".join(f"{module.__name__}:{name}" for name in found.values())
            many = f"has several apps; write one of {names}"
            usage(f"{module.__name__} " + (many if found else f"has no eventq.App in it; {FORMS}"))
        path = next(iter(found.values()))
    thing: object = module
    for name in path.split("."):
        if not hasattr(thing, name):
            apps = [name for name, thing in vars(module).items() if isinstance(thing, App)]
            hint = f"; did you mean {module.__name__}:{apps[0]}?" if apps else f"; {FORMS}"
            usage(f"{module.__name__} has no {path!r}{hint}")
        thing = getattr(thing, name)
    if not isinstance(thing, App):
        usage(f"{module.__name__}:{path} is of type {type(thing).__name__}, not an eventq.App; {FORMS}")
    return thing


def reloaded_files(app_module: str) -> list[str]:
    """What `--reload` looks at: the modules of the program, as files and folders; not what is installed."""
    here = os.path.abspath("") + os.sep
    found: set[str] = set()
    for name, module in list(sys.modules.items()):
        path = os.path.abspath(getattr(module, "__file__", None) or os.sep)
        installed = path.startswith((sys.prefix + os.sep, sys.base_prefix + os.sep)) or "site-packages" in path
        if name == "__main__" or name.partition(".")[0] == "eventq":
            continue
        if name == app_module or (path.startswith(here) and not installed):
            top = sys.modules.get(name.partition(".")[0])
            folders = list(getattr(top, "__path__", ()))
            found.update(folders or [path])
    return sorted(found)
