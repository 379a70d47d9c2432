"""Redis: its engine, its access rules and its configuration template. Valkey by the same way."""

from guestagent.engines.redis.engine import CAPABILITIES, Redis

__all__ = ["CAPABILITIES", "Redis"]
