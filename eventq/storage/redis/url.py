"""What a URL says: where the server is, which namespace of it, and how patient to be."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from eventq.config import masked
from eventq.errors import ConfigError

NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,100}")
DEFAULT_PORT = 6379
DEFAULT_PATIENCE = 10.0
OWN_OPTIONS = ("namespace", "patience")
TLS_OPTIONS = (
    "ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_ciphers", "ssl_keyfile",
)  # fmt: skip
"""As redis-py calls them; only with `rediss://`."""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A URL, taken apart and checked."""

    shown: str
    """The URL as it may be shown: without its password."""
    host: str
    port: int
    db: int
    user: str | None
    password: str | None
    tls: dict[str, Any] | None
    """redis-py's options of an encrypted connection; None: a plain one."""
    namespace: str
    patience: float
    """Seconds for which a lost connection is tried again."""

    @property
    def prefix(self) -> str:
        """What all keys of the namespace begin with. In braces, so that a cluster keeps them on one server."""
        return f"{{eventq:{self.namespace}}}:"


def address_of(url: str) -> Address:
    """What a `redis://` or `rediss://` URL says. Raises ConfigError that names what cannot be."""
    shown = masked(url)
    parts = urlsplit(url)
    options = _options(parts.query, parts.scheme == "rediss", shown)
    namespace = options.get("namespace", "default")
    if not NAMESPACE.fullmatch(namespace):
        raise ConfigError(f"namespace={namespace!r} cannot be: up to 100 letters, digits, '-', '_' and '.'")
    if parts.fragment:
        raise ConfigError(f"{shown} has a '#': write %23 for one that is meant")
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise ConfigError(f"{shown} has a port that cannot be: {error}") from error
    return Address(
        shown=shown,
        host=parts.hostname or "localhost",
        port=port,
        db=_database(parts.path, shown),
        user=unquote(parts.username) if parts.username else None,
        password=None if parts.password is None else unquote(parts.password),
        tls=_tls(options) if parts.scheme == "rediss" else None,
        namespace=namespace,
        patience=_patience(options.get("patience")),
    )


def _options(query: str, tls: bool, shown: str) -> dict[str, str]:
    known = OWN_OPTIONS + (TLS_OPTIONS if tls else ())
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            hint = "; it is for rediss://" if name in TLS_OPTIONS else f"; there are {', '.join(known)}"
            raise ConfigError(f"{shown} has an unknown option {name!r}{hint}")
        if name in options:
            raise ConfigError(f"{shown} says {name!r} twice")
        options[name] = value
    return options


def _database(path: str, shown: str) -> int:
    number = path.strip("/")
    if number and not (number.isascii() and number.isdigit()):
        raise ConfigError(f"{shown} names the database {number!r}; a Redis database is a number, as in redis://host/0")
    return int(number or 0)


def _patience(said: str | None) -> float:
    try:
        patience = DEFAULT_PATIENCE if said is None else float(said)
    except ValueError:
        patience = -1.0
    if not 0 <= patience <= 86400:
        raise ConfigError(f"patience={said!r} cannot be: a number of seconds, up to a day")
    return patience


def _tls(options: dict[str, str]) -> dict[str, Any]:
    tls: dict[str, Any] = {name: value for name, value in options.items() if name in TLS_OPTIONS}
    if tls.get("ssl_cert_reqs", "required") not in ("required", "optional", "none"):
        raise ConfigError(f"ssl_cert_reqs={tls['ssl_cert_reqs']!r} cannot be: 'required', 'optional' or 'none'")
    if "ssl_check_hostname" in tls:
        word = tls["ssl_check_hostname"].lower()
        if word not in ("true", "false"):
            raise ConfigError(f"ssl_check_hostname={word!r} cannot be: 'true' or 'false'")
        tls["ssl_check_hostname"] = word == "true"
    return tls
