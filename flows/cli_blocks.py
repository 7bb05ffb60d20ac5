"""`fem blocks`: the present settings as Prefect blocks."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import SecretStr

from blocks import FederationBroker, FederationRecords, FederationStore
from federation.settings import load


def save(name: str) -> Iterator[str]:
    """Register the types, and save one block of each; the slugs of what was saved."""
    settings = load()
    made = (
        FederationBroker(url=settings.broker_url, signing_key=str(settings.key or ""), key_id=settings.key_id),
        FederationStore(url=settings.store_url, site_url=settings.store_site_url),
        FederationRecords(url=SecretStr(settings.records_url.get_secret_value())),
    )
    for block in made:
        type(block).register_type_and_schema()
        block.save(name, overwrite=True)
        yield f"{type(block).get_block_type_slug()}/{name}"
