"""The catalogue of tools."""

from __future__ import annotations

from nicegui import ui

from federation.catalogue.tool import Tool
from federation.gateway.access import Action, Caller
from federation.gateway.pages import shared
from federation.gateway.pages.frame import Visit, note
from federation.gateway.services import Services

#: Letters of a description on a card.
LETTERS = 240


async def catalogue(visit: Visit) -> None:
    """A card for each tool, narrowed by what one types."""
    found = await visit.ask(tools_of)
    wanted = visit.request.query_params.get("text", "")
    if not found:
        note("empty", "The catalogue is empty.", "An operator fills it: fem sync, or fem apply with a tool's file.")
        return

    cards: dict[str, ui.element] = {}

    async def narrowed(text: str) -> None:
        for words, card in cards.items():
            card.set_visibility(text.strip().lower() in words)

    shared.search("Search", wanted, narrowed)
    with ui.element("div").classes("fem-grid").props('role="list"'):
        for tool in found:
            cards[f"{tool.name} {tool.title} {tool.description}".lower()] = _card(tool)
    await narrowed(wanted)


def tools_of(services: Services, who: Caller) -> list[Tool]:
    """Those that the catalogue has now, by name."""
    services.gate.allow(who, Action.FEDERATION_READ)
    return [Tool.model_validate_json(row.document) for row in services.centre.records.catalogue.tools()]


def _card(tool: Tool) -> ui.element:
    with ui.element("div").props('role="listitem"') as item, ui.card().classes("fem-card full-height"):
        ui.link(tool.title or tool.name, f"/tools/{tool.name}").classes("fem-card-name")
        ui.label(f"{tool.name} {tool.version}").classes("fem-soft")
        words = " ".join(tool.description.split())
        ui.label(words if len(words) <= LETTERS else words[: LETTERS - 1] + "…")
    return item
