"""PostgreSQL: its engine, its SQL and its configuration templates."""

from guestagent.engines.postgresql.engine import CAPABILITIES, PostgreSQL

__all__ = ["CAPABILITIES", "PostgreSQL"]
