"""Rules of flow code that a reader should not have to check."""

import ast
from pathlib import Path

import pytest

import taskmanager

FOLDER = Path(taskmanager.__file__).parent
BROAD = {"Exception", "BaseException"}


def names(node: ast.expr | None) -> set[str]:
    if node is None:
        return {"BaseException"}
    if isinstance(node, ast.Tuple):
        return set().union(*(names(item) for item in node.elts))
    return {node.id} if isinstance(node, ast.Name) else set()


@pytest.mark.parametrize(
    "path",
    sorted(FOLDER.rglob("*.py")),
    ids=lambda path: str(path.relative_to(FOLDER)),
)
def test_nothing_here_catches_everything_so_no_engine_error_is_taken_for_a_failure(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler) and names(node.type) & BROAD:
            # Starting the engine cleans up after anything, and raises it again.
            assert path.name == "flows.py"
            assert isinstance(node.body[-1], ast.Raise)
            assert node.body[-1].exc is None
