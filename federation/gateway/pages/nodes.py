"""The nodes: a card each with how it is, what it has and what runs there; and one node's page with its history and health check."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from functools import partial

from nicegui import ui

from fdn_worker.protocol import now
from federation import health
from federation.catalogue.find import find_node
from federation.gateway.access import Action, Caller, decide
from federation.gateway.pages import shared
from federation.gateway.pages.frame import Visit, note
from federation.gateway.queries import owner
from federation.gateway.services import Services
from federation.presence import NodePresence, presence
from storage.listing import Listed, Running, at_node, running

#: Seconds between two looks; executions in a node's history; datasets that a card names.
EVERY, HISTORY, NAMED = 4.0, 50, 6


@dataclass(frozen=True)
class At:
    """A node, what of its runs the caller may see, and how many others there are."""

    node: NodePresence
    seen: tuple[Running, ...]
    others: int
    #: Since when it was heard, coarse: what has not changed is not drawn again.
    heard: str


async def grid(visit: Visit) -> None:
    """All nodes."""
    summary = ui.label().classes("fem-soft").props('role="status"')
    cards = ui.element("div").classes("fem-grid").props('role="list"')
    drawn: dict[str, shared.Part] = {}

    def show(found: list[At]) -> None:
        counts = Counter(one.node.presence for one in found)
        summary.text = ", ".join(f"{counts[name]} {name}" for name in ("connected", "suspect", "gone") if counts[name])
        if [one.node.name for one in found] != list(drawn):
            cards.clear()
            drawn.clear()
        for one in found:
            if one.node.name not in drawn:
                with cards:
                    drawn[one.node.name] = shared.Part(ui.element("div").props('role="listitem"'))
            drawn[one.node.name].show(one, partial(_card, one, link=True))
        if not found:
            with cards:
                note("empty", "No node is enrolled yet.", "An operator enrols one: fem nodes enrol NAME --key PUBLIC-KEY")

    await visit.live(EVERY, nodes_now, show)


def nodes_now(services: Services, who: Caller) -> list[At]:
    """Each enrolled node as it was last heard."""
    services.gate.allow(who, Action.FEDERATION_READ)
    records = services.centre.records
    runs = running(records.database)
    return [_at(node, [run for run in runs if run.node == node.name], who) for node in presence(records)]


def _at(node: NodePresence, runs: list[Running], who: Caller) -> At:
    seen = tuple(run for run in runs if decide(who, Action.EXECUTIONS_READ, run))
    heard = shared.ago(node.last_seen, now()) if node.presence != "connected" else ""
    return At(node.model_copy(update={"last_seen": None, "disk_free": node.disk_free // 2**28 * 2**28}), seen, len(runs) - len(seen), heard)


def _card(one: At, *, link: bool) -> None:
    node = one.node
    with ui.card().classes("fem-card full-height"):
        with ui.row().classes("items-center justify-between no-wrap full-width"):
            if link:
                ui.link(node.display_name or node.name, f"/nodes/{node.name}").classes("fem-card-name")
            shared.state(node.presence)
        for problem in node.problems:
            note("error", problem)
        if node.presence == "connected" and not node.accepting:
            note("info", "Takes no orders at present.")
        named = [*node.datasets[:NAMED], *([f"and {len(node.datasets) - NAMED} more"] if len(node.datasets) > NAMED else [])]
        shared.facts(
            {
                "Last heard": one.heard, "Version": node.version, "Slots": f"{node.slots_free} of {node.slots} free" if node.version else "",
                "Resources": _resources(node), "Launchers": ", ".join(node.launchers), "Datasets": ", ".join(named),
            }
        )  # fmt: skip
        _runs(one)


def _resources(node: NodePresence) -> str:
    if not node.cpus:
        return ""
    gpus = f", {node.gpus} GPU{'s' * (node.gpus != 1)}" if node.gpus else ""
    return f"{node.cpus:g} CPUs, {shared.size(node.memory)} memory{gpus}, {shared.size(node.disk_free)} disk free"


def _runs(one: At) -> None:
    if one.seen or one.others:
        ui.label("Runs there now").classes("fem-soft")
    for run in one.seen:
        with ui.element("div").classes("fem-run"):
            shared.state(str(run.state))
            ui.link(f"{run.tool} / {run.task}, of {run.user}", f"/executions/{run.execution}")
    if one.others:
        ui.label(f"{one.others} of other people").classes("fem-soft")


async def node(visit: Visit) -> None:
    """One node."""
    name = visit.request.path_params["node"]
    card = ui.column().classes("full-width")

    def show(found: At) -> None:
        visit.named(found.node.display_name or found.node.name)
        card.clear()
        with card:
            _card(found, link=False)
            _more(found.node)

    await visit.live(EVERY, lambda services, who: node_now(services, who, name), show)
    shared.heading("Health check")
    ui.label("Asks the node itself: its worker, disk, clock, certificate and images.").classes("fem-soft")
    found = ui.column().classes("full-width")

    async def check() -> None:
        button.props("loading")
        answer = await visit.act(checked, name)
        button.props(remove="loading")
        if answer is not None:
            found.clear()
            with found:
                _health(answer)

    button = ui.button("Check now", icon="monitor_heart", on_click=check).props("no-caps outline")
    button.set_enabled(decide(visit.who, Action.NODES_CHECK))
    shared.heading("History")
    history = await visit.ask(history_of, name)
    if not history:
        note("empty", "Nothing that you may see has run here yet.")
        return
    rows = [
        {"id": one.id, "tool": one.tool, "state": one.state, "user": one.user, "project": one.project, shared.BEGUN: shared.minute(one.created),
         "to": shared.at(f"/executions/{one.id}")}
        for one in history
    ]  # fmt: skip
    shared.table(
        "Executions at this node", (shared.BEGUN, "tool", "state", "user", "project"), rows, links={"tool": "to"}, rows_at_most=HISTORY
    )


def node_now(services: Services, who: Caller, name: str) -> At:
    """The node of that name, or BadRequest in the words of whoever lists them."""
    wanted = find_node(services.centre.records, name)
    return next(one for one in nodes_now(services, who) if one.node.name == wanted)


def history_of(services: Services, who: Caller, name: str) -> list[Listed]:
    """The newest executions that ran there, of those that the caller may see."""
    records = services.centre.records
    return at_node(records.database, find_node(records, name), owner(who, Action.EXECUTIONS_LIST), HISTORY)


def checked(services: Services, who: Caller, name: str) -> health.NodeHealth:
    """What the node says of itself; waits for it."""
    services.gate.allow(who, Action.NODES_CHECK)
    (found,) = asyncio.run(health.check(services.centre, [name], user=who.name))
    return found


def _more(node: NodePresence) -> None:
    with ui.expansion("Everything it says of itself").classes("full-width fem-card"):
        shared.facts(
            {
                "Name": node.name, "Address for servers": node.address or "none: no server task can run here", "Datasets": ", ".join(node.datasets),
                "Images": ", ".join(node.images), "Obeys the keys": ", ".join(node.trusts), "Attempts present": node.present,
                "Audit log ends at": str(node.audit.number) if node.audit else "",
            }
        )  # fmt: skip


def _health(found: health.NodeHealth) -> None:
    if found.healthy:
        note("info", "Healthy.")
    for problem in found.problems:
        note("error", problem)
    said = found.health
    shared.facts(
        {
            "Answered": f"in {found.seconds:.1f} s" if found.seconds is not None else "no",
            "Clock": f"{found.offset:+.1f} s from the centre's" if found.offset is not None else "",
            "Disk free": shared.size(said.disk_free) if said else "",
            "Images": ", ".join(image.name for image in said.images) if said else "",
            "Certificate until": shared.moment(said.certificate_expires) if said else "",
        }
    )  # fmt: skip
