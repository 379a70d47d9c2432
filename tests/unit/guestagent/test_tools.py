"""Which local failures of a guest may be retried, and which are final answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestagent.engines.tools import Tools
from guestagent.system import LauncherError
from trove_grpc.errors import ConflictError, DeadlineError, UnavailableError


class FailingSystem:
    """Every request ends in the same error."""

    def __init__(self, error: OSError) -> None:
        self._error = error

    async def run(self, argv, *, timeout, stdin=b"", environment=None):
        raise self._error

    async def write_file(self, path, data, *, mode):
        raise self._error

    async def read_file(self, path):
        raise self._error


PATH = Path("/engine/data/file")
REQUESTS = {
    "run": lambda tools: tools.run(["initdb"], timeout=1),
    "read": lambda tools: tools.read(PATH),
    "write": lambda tools: tools.write(PATH, b"x"),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
async def test_a_launcher_that_is_away_may_come_back(request_):
    with pytest.raises(UnavailableError):
        await request_(Tools(FailingSystem(LauncherError("no launcher answers"))))


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        FileNotFoundError(2, "No such file or directory"),
        PermissionError(13, "Permission denied"),
    ],
    ids=lambda error: error.strerror,
)
async def test_a_full_disk_or_a_missing_file_is_a_final_answer_that_says_so(request_, error):
    with pytest.raises(ConflictError, match=error.strerror) as caught:
        await request_(Tools(FailingSystem(error)))
    assert caught.value.reason == "ENGINE_FILES"


async def test_a_program_that_takes_too_long_is_a_deadline():
    with pytest.raises(DeadlineError):
        await REQUESTS["run"](Tools(FailingSystem(TimeoutError("too long"))))
