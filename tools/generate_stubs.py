"""Regenerate trove_grpc/gen from protos/ (`make protos`); `--check` says whether it is fresh.

protoc derives Python imports from the proto path ("trove/guest/v1"). Our stubs live one level
down, so a top-level `trove` package never exists and cannot shadow OpenStack Trove's.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
OUT = ROOT / "trove_grpc" / "gen"
IMPORT = re.compile(r"^(from|import) trove\.", re.MULTILINE)
# mypy-protobuf writes fully qualified names for imported modules.
QUALIFIED = re.compile(r"(?<![\w./])trove\.(?=\w+\.v1\.)")


def generate(out: Path) -> int:
    """Write all stubs to `out`; return protoc's exit status."""
    # protoc finds its mypy plugins on PATH; they sit beside this interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as tmp:
        status = protoc.main(
            [
                "protoc",
                f"-I{PROTOS}",
                f"-I{files('grpc_tools') / '_proto'}",
                f"--python_out={tmp}",
                f"--mypy_out=quiet:{tmp}",
                f"--grpc_python_out={tmp}",
                f"--mypy_grpc_out=quiet:{tmp}",
                *sources,
            ]
        )
        if status:
            return int(status)
        shutil.copytree(Path(tmp) / "trove", out, dirs_exist_ok=True)
    for stub in sorted(out.rglob("*.py*")):
        text = IMPORT.sub(r"\1 trove_grpc.gen.", stub.read_text())
        if stub.suffix == ".pyi":
            text = QUALIFIED.sub("trove_grpc.gen.", text)
        stub.write_text(text)
    for folder in [out, *(path for path in out.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").touch()
    return 0


def differences(left: Path, right: Path) -> list[str]:
    """Relative names of stubs that differ or stand on one side only."""
    names = {
        path.relative_to(side)
        for side in (left, right)
        for path in side.rglob("*.py*")
        if "__pycache__" not in path.parts
    }
    return sorted(
        str(name)
        for name in names
        if not (left / name).exists()
        or not (right / name).exists()
        or not filecmp.cmp(left / name, right / name, shallow=False)
    )


def main(arguments: list[str]) -> int:
    if "--check" in arguments:
        with tempfile.TemporaryDirectory() as tmp:
            fresh = Path(tmp) / "gen"
            if status := generate(fresh):
                return status
            stale = differences(fresh, OUT)
        for name in stale:
            print(
                f"stale stub: trove_grpc/gen/{name}; run `make protos` and commit", file=sys.stderr
            )
        return 1 if stale else 0
    shutil.rmtree(OUT, ignore_errors=True)
    return generate(OUT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
