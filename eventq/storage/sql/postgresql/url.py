"""What a `postgresql://` URL says: how to connect, and what is this storage's own.

Everything that libpq understands may stand in it (several hosts, `sslmode=`, `options=`, `service=`). Besides:

    namespace   the schema that holds the store's tables; `eventq` unless said
    patience    seconds for which a call waits for a server that went away; 10 unless said
    prepare     `no` for a pooler that does not keep prepared statements, as PgBouncer before 1.21

A worker needs connections that stay its own: it must not reach the server by a pooler in transaction mode, where nobody
would see its death. What only puts and reads may.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import msgspec
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from eventq.config import masked
from eventq.errors import ConfigError

NAMESPACE = re.compile(r"[A-Za-z0-9_]{1,63}\Z")
OWN = ("namespace", "patience", "prepare")
SWITCH = {"yes": True, "no": False}
NO_URL = (
    "no URL of a PostgreSQL server; write postgresql://user:password@host:port/database, in the password %40 for an @ "
    "and %2F for a /"
)
KEPT_UP: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""Unless the URL says otherwise: a server that vanished without a word is noticed within half a minute."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL means."""

    shown: str
    """The URL as it may be shown: without passwords."""
    params: dict[str, Any]
    """What libpq gets."""
    namespace: str = "eventq"
    patience: float = 10.0
    prepare: bool = True


def target(url: str) -> Target:
    """What a URL means. Raises ConfigError; its text has no password."""
    shown = masked(url)
    address, _, query = url.partition("?")
    own, others = {}, []
    for option in query.split("&") if query else ():
        name, _, value = option.partition("=")
        if name in OWN:
            own[name] = unquote(value)
        else:
            others.append(option)
    try:
        params = conninfo_to_dict("?".join([address, "&".join(others)] if others else [address]))
    except ProgrammingError as error:
        raise ConfigError(f"{shown}: {_reason(str(error))}") from None  # libpq quotes the URL, password and all
    if not re.fullmatch("[0-9,]*", str(params.get("port", ""))):  # what follows a / in a password looks like one
        raise ConfigError(f"{shown}: {NO_URL}")
    params = KEPT_UP | {"fallback_application_name": "eventq"} | params | {"client_encoding": "UTF8"}
    return Target(
        shown=shown,
        params=params,
        namespace=_namespace(own.get("namespace", "eventq")),
        patience=_patience(own.get("patience", "10")),
        prepare=_switch("prepare", own.get("prepare", "yes")),
    )


def _reason(words: str) -> str:
    """What libpq says of a URL, as far as it shows nothing of what stands in it but the name of an option."""
    option = re.match(r'invalid URI query parameter: "(\w+)"', words)
    if option is not None:
        return f"neither eventq nor PostgreSQL knows the option {option[1]!r}; eventq's own are {', '.join(OWN)}"
    return NO_URL


def _namespace(text: str) -> str:
    if NAMESPACE.match(text) is None:
        raise ConfigError(f"namespace={text!r} cannot be; it takes up to 63 letters, digits and _")
    return text


def _patience(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise ConfigError(f"patience={text!r} cannot be; it takes seconds, at most a day")
    return seconds


def _switch(name: str, text: str) -> bool:
    if text not in SWITCH:
        raise ConfigError(f"{name}={text!r} cannot be; write {name}=yes or {name}=no")
    return SWITCH[text]
