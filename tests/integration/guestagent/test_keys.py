"""A key and its request, from a process that exits."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cryptography import x509

from guestagent import keys
from pki import requests
from trove_grpc.errors import UnavailableError


async def test_the_child_makes_a_key_and_a_request_of_it():
    key_pem, csr_der = await keys._request_in_child(None)
    csr = x509.load_der_x509_csr(csr_der)
    assert csr.is_signature_valid
    assert csr.public_key() == requests.load_key(key_pem).public_key()


async def test_the_child_keeps_a_key_that_is_given():
    known = requests.key_pem(requests.new_key())
    key_pem, csr_der = await keys._request_in_child(known)
    assert key_pem == known
    assert x509.load_der_x509_csr(csr_der).public_key() == requests.load_key(known).public_key()


async def test_a_broken_key_is_an_error_that_does_not_show_it():
    with pytest.raises(UnavailableError, match="no key could be made") as caught:
        await keys._request_in_child(b"CANARY")
    assert "CANARY" not in str(caught.value)


def test_importing_the_agent_loads_neither_cryptography_nor_prometheus():
    code = "import sys, guestagent.__main__;print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert "grpc" in loaded
    assert not {"cryptography", "prometheus_client", "sqlalchemy", "aiohttp"} & set(loaded)
