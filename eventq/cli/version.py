"""`eventq version`."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

from eventq import __version__
from eventq.cli.command import Command, Exit
from eventq.cli.console import print_json

if TYPE_CHECKING:
    import argparse


def _options(parser: argparse.ArgumentParser) -> None:
    del parser  # only the global ones


def versions() -> dict[str, str]:
    """Of eventq and of what it stands on."""
    return {
        "eventq": __version__,
        "python": platform.python_version(),
        "filelock": metadata.version("filelock"),
        "msgspec": metadata.version("msgspec"),
        "platform": platform.platform(),
    }


def _run(args: argparse.Namespace) -> int:
    found = versions()
    if args.json:
        print_json(found)
    else:
        for name, version in found.items():
            print(f"{name} {version}")
    return Exit.OK


COMMANDS = {"version": Command(_options, _run, "Print the versions of eventq, Python and the two libraries it needs.")}
