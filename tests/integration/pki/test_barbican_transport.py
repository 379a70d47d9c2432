"""On the way to Keystone: whose certificates are trusted, and that no redirect is followed.

The services of tests/openstack speak plain HTTP on the loopback: here is a server of its own.
"""

from __future__ import annotations

import datetime as dt
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pki.custody import CustodyError, envelope
from pki.custody.barbican import BarbicanCustody
from pki.custody.settings import BarbicanSettings
from tests.fakes.certificates import TestAuthority
from trove_grpc.errors import InvalidRequestError


class Redirecting(http.server.BaseHTTPRequestHandler):
    """Keystone as somebody who wants the secret elsewhere."""

    def do_POST(self) -> None:
        # Before the answer: whoever has it looks here at once.
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(307)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


@pytest.fixture
def keystone(private_directory: Path) -> Iterator[http.server.HTTPServer]:
    material, root = TestAuthority().engine_certificate(ip_addresses=["127.0.0.1"])
    chain = private_directory / "server.pem"
    chain.touch(mode=0o600)
    chain.write_bytes(material.key_pem + material.chain_pem)
    (private_directory / "ca.pem").write_bytes(root)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirecting)
    server.asked = []  # type: ignore[attr-defined]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def custody(root: Path, keystone: http.server.HTTPServer, ca_file: Path | None) -> BarbicanCustody:
    credential = root / "credential.json"
    credential.touch(mode=0o600)
    credential.write_text(json.dumps({"ID": "an id", "Secret": "a secret"}))
    envelope.create_kek(root / "kek")
    settings = BarbicanSettings(
        auth_url=f"https://127.0.0.1:{keystone.server_port}/v3",
        credential_file=credential,
        kek_file=root / "kek",
        ca_file=ca_file,
        timeout=dt.timedelta(seconds=20),
    )
    return BarbicanCustody(settings, "local.trove")


def test_certificate_nobody_vouches_for_is_refused_before_the_secret_leaves(
    private_directory: Path, keystone: http.server.HTTPServer
) -> None:
    with pytest.raises(CustodyError) as refused:
        custody(private_directory, keystone, None).probe()
    assert refused.value.reason == "CUSTODY_TLS"
    assert keystone.asked == []  # type: ignore[attr-defined]


def test_redirect_is_not_followed(
    private_directory: Path, keystone: http.server.HTTPServer
) -> None:
    with pytest.raises(CustodyError) as refused:
        custody(private_directory, keystone, private_directory / "ca.pem").probe()
    assert refused.value.reason == "CUSTODY_NOT_UNDERSTOOD"
    assert keystone.asked == ["/v3/auth/tokens"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "url",
    [
        "http://keystone.example/v3",
        "http://127.0.0.1.example/v3",
        "http://10.0.0.1/v3",
        "ftp://127.0.0.1",
        "https://",
        "127.0.0.1:5000",
    ],
)
def test_secret_never_leaves_without_tls(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="https://"):
        BarbicanSettings(
            auth_url=url, credential_file=tmp_path / "credential", kek_file=tmp_path / "kek"
        )
