"""The issuer's settings, for verbs that work on its host without it.

Whoever calls `load` reaches the CA's keys next; no verb that asks the issuer imports this.
"""

from __future__ import annotations

import os
from pathlib import Path

from pki.issuer.config import Config
from trove_grpc import config


def load(file: Path) -> Config:
    return config.load(Config, file=file, environment=os.environ, prefix="TROVE_ISSUER")
