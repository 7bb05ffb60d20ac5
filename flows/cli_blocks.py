"""`fem blocks`: the present settings as Prefect blocks."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
from prefect.blocks.core import Block
from prefect.settings import PREFECT_API_URL
from pydantic import HttpUrl, SecretStr

from blocks import FederationBroker, FederationRecords, FederationStore
from federation.settings import load
from flows.server import LOGO


def logo_url() -> HttpUrl | None:
    """Where Prefect's own server has the blocks' logo, if it has: a browser gets it from there without a network."""
    url = PREFECT_API_URL.value()
    if not url:
        return None
    address = f"{url.removesuffix('/').removesuffix('/api')}/{LOGO.name}"
    try:
        answer = httpx.get(address, timeout=5)
    except httpx.TransportError:
        return None
    return HttpUrl(address) if answer.headers.get("content-type", "").startswith("image/svg") else None


def of_settings() -> tuple[Block, ...]:
    """One block of each type, with the addresses of the present settings."""
    settings = load()
    made = (
        FederationBroker(
            url=settings.broker_url, site_url=settings.broker_site_url, signing_key=str(settings.key or ""), key_id=settings.key_id,
            relay=settings.relay,
        ),
        FederationStore(url=settings.store_url, site_url=settings.store_site_url),
        FederationRecords(url=SecretStr(settings.records_url.get_secret_value())),
    )  # fmt: skip
    logo = logo_url()
    for block in made:
        type(block)._logo_url = logo
    return made


def save(name: str) -> Iterator[str]:
    """Register the types, and save one block of each; the slugs of what was saved."""
    for block in of_settings():
        type(block).register_type_and_schema()
        block.save(name, overwrite=True)
        yield f"{type(block).get_block_type_slug()}/{name}"
