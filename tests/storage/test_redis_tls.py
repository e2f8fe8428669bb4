"""TLS and passwords, by the URL alone."""

from __future__ import annotations

import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
import redis_server

from eventq import App
from eventq.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Host and port of a server that speaks TLS and wants a password; `tmp_path` has its certificate."""
    if shutil.which("openssl") is None:
        redis_server.absent("no openssl on the PATH: install one")
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(command, capture_output=True, check=True, timeout=60)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    options = ("--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file")
    with redis_server.private(tmp_path, *options, certificate, "--tls-auth-clients", "no", "--requirepass", "sesame"):
        yield f"127.0.0.1:{port}"


def test_work_goes_over_tls(server: str, tmp_path: Path) -> None:
    with App(f"rediss://:sesame@{server}/0?ssl_ca_certs={tmp_path}/certificate.pem") as app:
        app.queue("q").put(1)
        claim = app.queue("q").claim(timeout=10)
        assert claim is not None
        claim.complete("done")
        assert app.handle(claim.event.id).result() == "done"


def test_a_certificate_is_looked_at_unless_the_url_says_otherwise(server: str) -> None:
    with pytest.raises(StorageError, match="certificate verify failed") as refused:
        App(f"rediss://:sesame@{server}/0")
    assert "sesame" not in str(refused.value)
    App(f"rediss://:sesame@{server}/0?ssl_cert_reqs=none").close()


def test_a_wrong_password_is_said_and_not_shown(server: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="check the user and the password") as refused:
        App(f"rediss://:mistaken@{server}/0?ssl_ca_certs={tmp_path}/certificate.pem")
    assert "mistaken" not in str(refused.value)
