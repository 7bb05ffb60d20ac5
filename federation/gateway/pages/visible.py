"""Moved to `federation.gateway.queries`."""

from federation.gateway.queries import owner

__all__ = ["owner"]
