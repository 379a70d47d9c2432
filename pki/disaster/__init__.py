"""What is left to do when the issuer's database, its keys or both are lost.

Plain functions on the issuer's settings, for the command line on the issuer's own machine.
"""

from __future__ import annotations

from pki.disaster.backups import create as backup_create
from pki.disaster.backups import restore
from pki.disaster.backups import verify as backup_verify
from pki.disaster.rebuild import rebuild

__all__ = ["backup_create", "backup_verify", "rebuild", "restore"]
