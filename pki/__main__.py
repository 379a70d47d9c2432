"""`trove-pki` and `python -m pki`."""

from __future__ import annotations

import sys

from pki.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
