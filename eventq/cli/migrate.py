"""`eventq migrate`: the schema of a store in a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventq.cli.command import Command, Exit, store_url, usage
from eventq.cli.console import print_json, printable
from eventq.config import masked
from eventq.storage import SCHEMES

if TYPE_CHECKING:
    import argparse

DATABASES = ("sqlite", "postgresql", "postgres")


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", nargs="?", metavar="URL", help="the store (default: as --store)")


def _migrate(args: argparse.Namespace) -> int:
    if args.url is not None and args.store is not None:
        usage("the store is named twice: leave out URL, or --store")
    url = args.url or store_url(args)
    shown = masked(url)
    scheme, separator, _ = url.partition("://")
    if separator and f"{scheme}://" not in (*SCHEMES, "postgres://"):
        usage(f"no storage for {scheme}://; there are {', '.join(SCHEMES)}, and plain paths")
    if not separator or scheme not in DATABASES:
        return _tell(args, {"store": shown, "before": None, "after": None}, f"{shown} needs no schema; nothing to do")
    from eventq.storage.sql import migrate

    before, after = migrate(url)
    if before == after:
        text = f"{shown} has schema {after} already; nothing to do"
    elif before:
        text = f"{shown} was migrated from schema {before} to schema {after}"
    else:
        text = f"{shown} has schema {after} now"
    return _tell(args, {"store": shown, "before": before, "after": after}, text)


def _tell(args: argparse.Namespace, document: dict[str, object], text: str) -> int:
    if args.json:
        print_json(document)
    else:
        print(printable(text))
    return Exit.OK


COMMANDS = {
    "migrate": Command(
        _options,
        _migrate,
        "Make the tables of a store in PostgreSQL or SQLite, or bring them up to this version of eventq. Do it\n"
        "before the workers of a new version start. Repeating it does nothing; other kinds of stores need\n"
        "none.",
        "example:\n  eventq migrate postgresql://shop@db/shop",
    ),
}
