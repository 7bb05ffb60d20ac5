"""NodeEntry: a site as the catalogue has it."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from fdn_worker.protocol.base import Id
from fdn_worker.protocol.envelope import is_public_key
from federation.catalogue.tool import Entry


def node_id(name: str) -> str:
    """The id that belongs to a name as existing clients write it: `SITE_A` is `site-a`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


class Location(Entry):
    """A place on the map, in degrees."""

    lat: Annotated[float, Field(ge=-90, le=90)]
    lon: Annotated[float, Field(ge=-180, le=180)]


class NodeEntry(Entry):
    """A node of the federation. What it has and allows is its own settings' matter, not the catalogue's."""

    id: Id
    """a-z, 0-9 and -; the site's settings name the same."""
    display_name: str = ""
    """For people; clients of the earlier interface know the node by it."""
    public_key: str = ""
    """As `fdn-worker init` printed it; may be missing in an embedded federation alone."""
    address: str = ""
    """Where other sites reach a server here; for people, the node itself says it in its heartbeats."""
    description: str = ""
    projects: tuple[str, ...] = ()
    """Projects that it takes part in, for people and for selections."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Anything else that is known of it."""
    region: str = ""
    location: Location | None = None

    @field_validator("public_key")
    @classmethod
    def _a_key(cls, value: str) -> str:
        if value and not is_public_key(value):
            raise ValueError(f"{value[:60]!r} is no public key; copy the line that `fdn-worker init` printed")
        return value
