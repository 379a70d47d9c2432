"""Where CA keys live: encrypted files here; a vault is another class with the same verbs."""

from __future__ import annotations

from pki.custody.contract import Custody, CustodyError
from pki.custody.files import FileCustody
from pki.custody.private_files import check_directory

__all__ = ["Custody", "CustodyError", "FileCustody", "check_directory"]
