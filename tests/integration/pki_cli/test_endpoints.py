"""Bundles are fetched from the endpoint that was meant, or not at all."""

from __future__ import annotations

import hashlib
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from pki.cli import endpoints, spiffe_bundles
from tests.fakes.certificates import TestAuthority
from tests.integration.pki_cli.conftest import Scene
from trove_grpc.errors import InvalidRequestError, UnauthenticatedError, UnavailableError


class QuietServer(http.server.HTTPServer):
    """A client that turns away at the handshake is what these tests are about."""

    def handle_error(self, *_: object) -> None:
        pass


class Region:
    """Another region's bundle endpoint, with a key that no public authority certified."""

    def __init__(self, root: Path) -> None:
        self.authority = TestAuthority("region-b.trove")
        self.version = 1
        self.status = 200
        self.body = b""
        self.asked: list[str] = []
        region = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                region.asked.append(self.path)
                text = spiffe_bundles.render(region.authority.bundle(region.version))
                self.send_response(region.status)
                self.end_headers()
                self.wfile.write(region.body or text.encode())

            def log_message(self, *_: object) -> None:
                pass

        material, _ = self.authority.engine_certificate(ip_addresses=["127.0.0.1"])
        for name, pem in (("key.pem", material.key_pem), ("chain.pem", material.chain_pem)):
            (root / name).write_bytes(pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(root / "chain.pem", root / "key.pem")
        self.server = QuietServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}/bundle?x=1"
        spki = material.leaf.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.pin = hashlib.sha256(spki).hexdigest()


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    region = Region(tmp_path)
    thread = threading.Thread(target=region.server.serve_forever)
    thread.start()
    yield region
    region.server.shutdown()
    region.server.server_close()
    thread.join()


def test_pinned_endpoint_is_believed_though_nobody_vouches_for_it(region: Region):
    assert json.loads(endpoints.fetch(region.url, region.pin.upper()))["spiffe_sequence"] == 1
    assert region.asked == ["/bundle?x=1"]


def test_another_key_is_refused_before_anything_is_asked(region: Region):
    with pytest.raises(UnauthenticatedError, match="not the pinned one"):
        endpoints.fetch(region.url, "0" * 64)
    assert region.asked == []


def test_without_a_pin_the_public_web_pki_must_vouch(region: Region):
    with pytest.raises(UnauthenticatedError, match="pin its key"):
        endpoints.fetch(region.url, "")
    assert region.asked == []


def test_answers_that_are_no_bundle_are_refused(region: Region):
    region.status = 503
    with pytest.raises(UnavailableError, match="503"):
        endpoints.fetch(region.url, region.pin)
    region.status, region.body = 200, b" " * (1 << 21)
    with pytest.raises(InvalidRequestError, match="more than a bundle"):
        endpoints.fetch(region.url, region.pin)


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "file:///etc/passwd", "https://"])
def test_only_https_is_fetched(url: str):
    with pytest.raises(InvalidRequestError, match="https"):
        endpoints.fetch(url, "")


def test_refresh_takes_what_is_new_and_names_what_cannot_be_fetched(scene: Scene, region: Region):
    add = ("federation", "add", "region-b.trove", "--bundle-endpoint", region.url)
    assert scene.ask(*add, "--pin", region.pin, "--yes").status == 0
    region.version = 2
    assert scene.json("federation", "refresh").rows[0]["sequence"] == 2
    region.version = 1
    older = scene.ask("federation", "refresh", "region-b.trove")
    assert older.status == 1
    assert "region-b.trove: that bundle is older" in older.notes
    assert scene.ask("federation", "refresh", "region-c.trove").status == 3
