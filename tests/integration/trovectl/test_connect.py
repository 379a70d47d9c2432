"""What redis-cli does not verify, we do: against real TLS servers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pki.requests import new_request
from tests.fakes.certificates import TestAuthority
from trove_grpc.errors import UnauthenticatedError, UnavailableError
from trove_grpc.gen.common.v1 import trust_pb2
from trovectl.connect import Target, check_server


@contextlib.contextmanager
def server(authority: TestAuthority, folder: Path, *, named: str) -> Iterator[int]:
    """A TLS listener on 127.0.0.1 whose certificate names another address or this one."""
    key, csr = new_request()
    pem = folder / "server.pem"
    pem.write_bytes(key + authority.engine_chain(csr, ip_addresses=[named]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with (
                contextlib.suppress(OSError),
                listener.accept()[0] as plain,
                context.wrap_socket(plain, server_side=True) as secure,
            ):
                secure.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(10)


def target(authority: TestAuthority, folder: Path, port: int) -> Target:
    root = folder / "root.pem"
    root.write_bytes(authority.signers[trust_pb2.AUTHORITY_KIND_DATABASE_ROOT].pem)
    return Target(
        manager="redis", address="127.0.0.1", port=port, user="ada", database="", authority=root
    )


def test_server_that_proves_its_address_is_taken(tmp_path):
    authority = TestAuthority()
    with server(authority, tmp_path, named="127.0.0.1") as port:
        check_server(target(authority, tmp_path, port))


def test_another_instances_certificate_is_refused(tmp_path):
    authority = TestAuthority()
    with (
        server(authority, tmp_path, named="127.70.0.8") as port,
        pytest.raises(UnauthenticatedError, match="does not prove"),
    ):
        check_server(target(authority, tmp_path, port))


def test_another_authoritys_certificate_is_refused(tmp_path):
    with (
        server(TestAuthority(), tmp_path, named="127.0.0.1") as port,
        pytest.raises(UnauthenticatedError, match="does not prove"),
    ):
        check_server(target(TestAuthority(), tmp_path, port))


def test_nobody_at_the_address_is_said(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(UnavailableError, match="no server answers"):
        check_server(target(TestAuthority(), tmp_path, port))
