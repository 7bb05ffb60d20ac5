"""What `fdn-worker check` found, one thing at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    sound: bool
    what: str
    says: str
    remedy: str = ""
