"""MariaDB: its engine, its SQL and its configuration template."""

from guestagent.engines.mariadb.engine import CAPABILITIES, MariaDB

__all__ = ["CAPABILITIES", "MariaDB"]
