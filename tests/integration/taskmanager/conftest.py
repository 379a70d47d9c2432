import shutil
import tempfile
from pathlib import Path

import pytest

from tests.fakes.certificates import TestAuthority
from tests.fakes.state_databases import database_servers
from tests.fakes.taskmanager_servers import Peers

__all__ = ["database_servers"]


@pytest.fixture(scope="session")
def authority():
    return TestAuthority()


@pytest.fixture
def folder():
    """A short path: a UNIX socket's name has 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="tm-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def peers(authority, folder):
    return Peers(authority, folder)
