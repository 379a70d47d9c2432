"""Write docs/reference/openapi.json from the REST API's routes; --check compares only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

from gateway.rest.app import described_routes
from gateway.rest.control_plane import ControlPlane
from gateway.rest.openapi import document

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference" / "openapi.json"


class _Unasked:
    """Stands for the control plane and its ports: routes are listed, none is called."""

    def __getattr__(self, name: str) -> Any:
        return self


def text() -> str:
    built = document.build(described_routes(cast(ControlPlane, _Unasked())))
    return json.dumps(built, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        if TARGET.read_text() != text():
            print(f"{TARGET} is stale; run `python tools/generate_openapi.py`", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
