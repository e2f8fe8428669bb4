"""Statements as the server takes them, and their way there and back.

A busy worker says thousands of statements a second in autocommit. They go by libpq's own calls, for a third less of its
time than a cursor takes; values are adapted as psycopg always does it, in binary.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import TYPE_CHECKING, Any

import msgspec
from psycopg import generators
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format

from eventq.storage.sql.schema import spelled

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg
    from psycopg.pq.abc import PGresult

    from eventq.storage.sql.database import Row
    from eventq.storage.sql.schema import Dialect

_PARAMETER = re.compile(r"'(?:[^']|'')*'|::|:([a-z_]\w*)|%")


def _percent(match: re.Match[str]) -> str:
    name = match[1]
    return f"%({name})s" if name is not None else match[0].replace("%", "%%")


@functools.lru_cache(1024)
def translated(statement: str, dialect: Dialect) -> bytes:
    """A statement of the SQL storages as psycopg takes it: `:name` is `%(name)s`; casts and literals stay."""
    return _PARAMETER.sub(_percent, spelled(statement, dialect)).encode()


class Numbered(msgspec.Struct, frozen=True):
    """A statement as the server takes it: `:name` is `$1`, and so on."""

    text: bytes
    names: tuple[str, ...]
    formats: tuple[PyFormat, ...]


@functools.lru_cache(1024)
def numbered(statement: str, dialect: Dialect) -> Numbered:
    """The same, with what stands for which number."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return match[0]
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    text = _PARAMETER.sub(number, spelled(statement, dialect)).encode()
    return Numbered(text, tuple(names), (PyFormat.BINARY,) * len(names))


class Statements:
    """What a connection is told in autocommit. It prepares what it is told again."""

    __slots__ = ("_connection", "_dialect", "_numbers", "_pgconn", "_prepare", "_prepared", "_transformer")

    def __init__(self, connection: psycopg.Connection[Any], dialect: Dialect, prepare: bool) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._dialect = dialect
        self._prepare = prepare
        self._transformer = Transformer(connection)
        self._numbers = itertools.count(1)
        self._prepared: dict[tuple[bytes, tuple[int, ...] | None], bytes] = {}
        """By the statement and the types of its values; without a name what was said once."""

    def execute(self, statement: str, values: Mapping[str, Any]) -> list[Row]:
        """The rows that a statement returns."""
        asked = numbered(statement, self._dialect)
        transformer = self._transformer
        data = transformer.dump_sequence([values[name] for name in asked.names], asked.formats)
        formats, types = transformer.formats, transformer.types
        name = self._named(asked.text, types)
        if name:
            self._pgconn.send_query_prepared(name, data, formats, Format.BINARY)
        else:
            self._pgconn.send_query_params(asked.text, data, types, formats, Format.BINARY)
        result = self._result(ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)
        transformer.set_pgresult(result, set_loaders=True, format=Format.BINARY)
        return transformer.load_rows(0, result.ntuples, tuple)

    def _named(self, text: bytes, types: tuple[int, ...] | None) -> bytes:
        """The name of a prepared statement; empty if it is not worth it yet."""
        name = self._prepared.get((text, types))
        if name is None:
            self._prepared[text, types] = name = b""
        elif not name and self._prepare:
            name = b"eventq_%d" % next(self._numbers)
            self._pgconn.send_prepare(name, text, types)
            self._result(ExecStatus.COMMAND_OK)
            self._prepared[text, types] = name
        return name

    def _result(self, *good: ExecStatus) -> PGresult:
        result: PGresult = self._connection.wait(generators.execute(self._pgconn))[-1]
        if result.status not in good:
            raise error_from_result(result, encoding="utf-8")
        return result
