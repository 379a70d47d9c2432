"""What an engine is meant to be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What an engine is meant to be. Recorded by the agent; holds no secret."""

    version: str
    listen_addresses: tuple[str, ...]
    port: int
    memory_mib: int
