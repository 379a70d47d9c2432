"""Real OpenStack services on the loopback, as plain background processes.

`up` starts what does not run and prints the state directory; `down` stops it by pid.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.openstack.harness.cloud import Cloud
from tests.openstack.harness.state import HarnessError


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/openstack", description=__doc__)
    verbs = parser.add_subparsers(required=True, dest="verb")
    up = verbs.add_parser("up")
    up.add_argument("--state", type=Path, help="default: a new directory for temporary files")
    down = verbs.add_parser("down")
    down.add_argument("--purge", action="store_true", help="remove the directory too")
    down.add_argument("state", type=Path)
    options = parser.parse_args()
    try:
        if options.verb == "up":
            root = options.state or Path(tempfile.mkdtemp(prefix="trove-openstack-"))
            Cloud(root).up()
            print(root.resolve())
        else:
            _down(options.state, purge=options.purge)
    except HarnessError as error:
        print(f"openstack: {error}", file=sys.stderr)
        return 1
    return 0


def _down(root: Path, *, purge: bool) -> None:
    if not (root / "facts.json").exists():
        raise HarnessError(f"{root} is no state directory of ours")
    Cloud(root).down()
    if purge:
        shutil.rmtree(root)


if __name__ == "__main__":
    sys.exit(main())
