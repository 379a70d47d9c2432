"""Who may do what: rules under Trove's names, in oslo.policy's syntax."""

from gateway.rest.policy.engine import Policy

__all__ = ["Policy"]
