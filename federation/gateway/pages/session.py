"""One session: how it stands, its metrics as they come, its rounds, who worked when, and its models; pause, continue, stop."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from nicegui import ui

from fdn_worker.protocol import now
from federation.gateway.access import Action, Caller, decide
from federation.gateway.files import send
from federation.gateway.pages import shared
from federation.gateway.pages.charts import Charts, numbers
from federation.gateway.pages.frame import AT, Visit, note
from federation.gateway.pages.learning import planned
from federation.gateway.pages.trail import trail
from federation.gateway.services import Services
from federation.gateway.services import of as services_of
from federation.gateway.sessions import lineage, model, model_file, session, steer
from federation.gateway.signing import Who
from federation.learning.dashboard import metrics, read, round_table, times
from federation.learning.figures import Cell, Figure
from storage.learning_rows import ENDED, ModelRow, RoundRow, SessionRow, UpdateRow, Wish

router = APIRouter(prefix=AT, include_in_schema=False)

#: Seconds between two looks; models that the table has.
EVERY, MODELS = 3.0, 500
COLUMNS = ("model", "state", "session", "clients", "examples", "metrics", "size", "created", "file")


@dataclass(frozen=True)
class Stand:
    """How a session stands, as far as is cheap to read: where it is another one, there is something to draw."""

    row: SessionRow
    rounds: list[RoundRow]
    updates: list[UpdateRow]
    measures: int
    models: list[ModelRow]
    link: str | None


@dataclass(frozen=True)
class Drawn:
    """What is made of it."""

    metrics: dict[str, list[Figure]]
    heads: list[str]
    rounds: list[list[Cell]]
    times: Figure
    trail: Figure


async def one(visit: Visit) -> None:
    """The page."""
    id_ = visit.request.path_params["session"]
    head, buttons = shared.Part(ui.column().classes("full-width fem-body")), shared.Part(ui.row().classes("items-center"))
    shared.heading("Metrics")
    chosen = ui.select([], label="Metric").classes("fem-metric").props("outlined dense")
    curves = Charts()
    nothing = ui.label("No client has told anything yet.").classes("fem-soft")
    shared.heading("Rounds")
    rounds = ui.column().classes("full-width")
    shared.heading("Who worked when")
    work = Charts(wide=True)
    shared.heading("Models")
    graph = Charts(wide=True)
    models = shared.table("Models, newest first", COLUMNS, [], links={"file": "to", "session": "of"}, rows_at_most=MODELS)
    models.add_slot("no-data", "No model yet.")
    figures: dict[str, list[Figure]] = {}

    def pick() -> None:
        curves.show(figures.get(chosen.value or "", []))

    async def show(stand: Stand) -> None:
        visit.named(stand.row.name)
        head.show((stand.row, stand.updates), lambda: _facts(stand))
        buttons.show((stand.row.state, stand.row.wanted, stand.link), lambda: _buttons(visit, stand))
        may = decide(visit.who, Action.MODELS_READ, stand.row)
        models.rows = shared.marked([_model(one, id_, may=may) for one in stand.models[:MODELS]])
        drawn = await visit.act(draw, id_)
        if drawn is None:
            return
        figures.clear()
        figures.update(drawn.metrics)
        nothing.set_visibility(not figures)
        chosen.set_visibility(len(figures) > 1)
        chosen.set_options(list(figures), value=chosen.value if chosen.value in figures else next(iter(figures), None))
        pick()
        rounds.clear()
        with rounds:
            numbers("Rounds", drawn.heads, drawn.rounds)
        work.show([drawn.times] if stand.updates else [])
        graph.show([drawn.trail] if stand.models else [])

    chosen.on_value_change(pick)
    await visit.live(EVERY, lambda services, who: look(services, who, id_), show)


def look(services: Services, who: Caller, id_: str) -> Stand:
    """How it stands."""
    row = session(services, who, Action.SESSIONS_READ, id_)
    learning = services.centre.records.learning
    models = sorted(lineage(services, who, row), key=lambda one: one.created, reverse=True)
    link = services.submitter.page(row)
    return Stand(row, learning.rounds(row.id), learning.updates(row.id), learning.heard(row.id), models, link)


def draw(services: Services, who: Caller, id_: str) -> Drawn:
    """The figures."""
    row = session(services, who, Action.SESSIONS_READ, id_)
    seen = read(services.centre.records.learning, row)
    heads, rounds = round_table(seen)
    return Drawn(dict(metrics(seen)), heads, rounds, times(seen, now()), trail(lineage(services, who, row), row.id))


def _facts(stand: Stand) -> None:
    row = stand.row
    shared.state(row.state)
    if row.reason and row.state in ("FAILED", "STOPPED", "PAUSED"):
        note("error" if row.state == "FAILED" else "info", row.reason)
    if row.wanted == "pause" and row.state == "RUNNING":
        note("info", "It pauses once the round that is under way is over.")
    clients = {one.client for one in stand.updates}
    shared.facts({
        "Session": row.id, "Round": planned(row), "Clients": len(clients) or "", "User": row.user, "Project": row.project,
        "Begun": shared.moment(row.created), "Ended": shared.moment(row.ended),
    })  # fmt: skip


def _buttons(visit: Visit, stand: Stand) -> None:
    row = stand.row

    async def wish(what: Wish, said: str) -> None:
        if await visit.act(steer, row.id, what):
            ui.notify(said)

    async def stop() -> None:
        if await shared.confirmed("Stop it now, at all its nodes? Its models stay.", "Stop it", "Let it go on"):
            await wish("stop", "The nodes are asked to end it.")

    if row.state not in ENDED and decide(visit.who, Action.SESSIONS_STEER, row):
        if row.wanted == "pause" or row.state == "PAUSED":
            ui.button("Continue", icon="play_arrow", on_click=lambda: wish("run", "It goes on.")).props("no-caps outline")
        else:
            ui.button("Pause", icon="pause", on_click=lambda: wish("pause", "It pauses after this round.")).props("no-caps outline")
        ui.button("Stop", icon="stop_circle", on_click=stop).props("no-caps outline")
    if stand.link:
        ui.link("Flow run in Prefect", stand.link, new_tab=True)


def _model(one: ModelRow, here: str, *, may: bool) -> dict[str, object]:
    state = "DELETED" if one.deleted else "RELEASED" if one.released else "KEPT"
    there, gives = one.session != here, may and not one.deleted
    return {
        "id": one.id, "model": f"round {one.round}" if one.round else "seed", "state": state, "session": one.session[:8] if there else "this one",
        "of": shared.at(f"/learning/{one.session}") if there else None, "clients": one.participants or "",
        "examples": f"{one.examples:,.0f}" if one.examples else "", "created": shared.moment(one.created), "size": shared.size(one.size),
        "metrics": ", ".join(f"{name} {value:.4g}" for name, value in sorted(one.metrics.items())),
        "file": "" if not gives else f"Download {'round ' + str(one.round) if one.round else 'the seed'}",
        "to": None if not gives else shared.at(f"/models/{quote(one.id)}/file"),
    }  # fmt: skip


@router.get("/models/{id_}/file")
def download(request: Request, who: Who, id_: str) -> Response:
    """A model's file, with ranges."""
    row = model(services_of(request), who, id_)
    return send(request, who, model_file(row), f"{row.session[:8]}-round-{row.round}.safetensors")
