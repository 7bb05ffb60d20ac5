"""One tool: a form made of its arguments. First the plan, which asks each node; then the button that runs it."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from nicegui import ui
from nicegui.elements.mixins.value_element import ValueElement

from federation.catalogue.find import find_tool, is_path
from federation.catalogue.tool import Argument, Tool
from federation.gateway.access import Action, Asked, Caller, decide
from federation.gateway.errors import NotFound
from federation.gateway.pages import shared
from federation.gateway.pages.frame import Visit, note
from federation.gateway.services import Services
from federation.gateway.submitting import submit
from federation.plan import Plan, PlanRefused, plan
from federation.presence import NodePresence, presence
from federation.request import build
from federation.tool_request import ToolRequest

#: What a value of each type is, for the line below its field.
FORMS = {"int": "a whole number", "float": "a number", "bool": "yes or no", "str": "a text"}
#: Letters of a command in the plan.
LETTERS = 160
Read = Callable[[], Any]


@dataclass(frozen=True)
class Offer:
    """What the form is made of: the tool, the nodes that there are, and the request that it begins with."""

    tool: Tool
    nodes: list[NodePresence]
    before: dict[str, Any]


async def form(visit: Visit) -> None:
    """The page."""
    name = visit.request.path_params["tool"]
    offer = await visit.ask(offered, name, visit.request.query_params.get("like", ""))
    tool = offer.tool
    visit.named(tool.title or tool.name)
    shared.facts({"Name": f"{tool.name} {tool.version}", "Author": tool.author, "Runs": _steps(tool)})
    ui.label(" ".join(tool.description.split()))
    if not decide(visit.who, Action.EXECUTIONS_SUBMIT):
        note("info", f"A {visit.who.role} runs no tools.")
        return
    with ui.element("form").classes("fem-form").on("submit.prevent", lambda: planned()) as place:
        read = _fields(visit, offer)
        ui.button("Plan", icon="fact_check").props("no-caps type=submit").classes("self-start")
    answer = ui.column().classes("full-width fem-body").props('role="status"')

    async def planned() -> None:
        answer.clear()
        place.props("aria-busy=true")
        made = await visit.act(plan_of, name, read())
        place.props(remove="aria-busy")
        if made is not None:
            answer.clear()
            with answer:
                _plan(made, run)

    async def run(made: Planned) -> None:
        execution = await visit.act(submitted, made)
        if execution is not None:
            ui.navigate.to(f"/executions/{execution}")

    # What was planned is no longer what would run.
    for element in place.descendants():
        if isinstance(element, ValueElement):
            element.on_value_change(lambda: answer.clear())


def offered(services: Services, who: Caller, name: str, like: str) -> Offer:
    """The tool of that name in the catalogue; `like` is an execution whose request the form begins with."""
    services.gate.allow(who, Action.FEDERATION_READ)
    if is_path(name):
        raise NotFound
    records = services.centre.records
    before: dict[str, Any] = {}
    if like:
        before = json.loads(services.gate.execution(who, Action.EXECUTIONS_READ, like).request)
    return Offer(find_tool(records, name), presence(records), before)


def _steps(tool: Tool) -> str:
    return ", ".join(f"{task.id}{' (one node, serves the others)' if task.single_node and tool.has_server else ''}" for task in tool.tasks)


def _fields(visit: Visit, offer: Offer) -> Callable[[], dict[str, Any]]:
    """The form's fields; what is called to read them as a request."""
    tool, before = offer.tool, offer.before
    shown = {node.name: f"{node.display_name or node.name} ({node.presence})" for node in offer.nodes}
    connected = [node.name for node in offer.nodes if node.presence == "connected"]
    earlier = [node for node in before.get("nodes", connected) if node in shown]
    nodes = ui.select(shown, value=earlier, label="Nodes", multiple=True).props("use-chips outlined")
    server = None
    if tool.has_server:
        at = before.get("server_node")
        server = ui.select(shown, value=at if at in shown else None, label="Node of the server").props("outlined")
    projects = sorted(visit.who.projects)
    earlier_project = before.get("project", "")
    project = ui.select(
        {"": "none", **{name: name for name in projects}}, value=earlier_project if earlier_project in projects else "", label="Project"
    ).props("outlined")
    given = before.get("arguments", {})
    arguments = {argument.id: argument for task in tool.tasks for argument in task.command.args}
    if arguments:
        shared.heading("Arguments")
    values = {id_: _field(argument, given.get(id_)) for id_, argument in arguments.items()}
    with (
        ui.expansion("How many must succeed, and what happens to faults").classes("full-width fem-card"),
        ui.column().classes("full-width"),
    ):
        quorum = ui.input("How many nodes must succeed", value=str(before.get("quorum", "all"))).props(
            'outlined hint="all, a number, or a share such as 80%"'
        )
        gone = ui.select(
            {"wait": "wait for it", "skip": "skip it", "fail": "send nothing"},
            value=before.get("on_node_offline", "wait"),
            label="When a node is gone",
        ).props("outlined")
        retries = ui.number(
            "New attempts after faults of the infrastructure", value=before.get("retries", 0), min=0, max=100, precision=0
        ).props("outlined")
        for one in (quorum, gone, retries):
            one.classes("full-width")

    def read() -> dict[str, Any]:
        found = {id_: value() for id_, value in values.items()}
        return {
            "nodes": tuple(nodes.value), "server_node": server.value if server else None, "project": project.value,
            "arguments": {id_: value for id_, value in found.items() if value not in (None, "")}, "quorum": quorum.value or "all",
            "on_node_offline": gone.value, "retries": int(retries.value or 0),
        }  # fmt: skip

    return read


def _field(argument: Argument, before: Any) -> Read:
    """A field for an argument; what is left empty is its default."""
    needed = " *" if argument.required and argument.default is None else ""
    form = "" if argument.choices else FORMS[argument.type]
    default = form if argument.default is None else f"without a choice of yours: {_text(argument.default)}"
    hint = "; ".join(filter(None, (argument.description.rstrip("."), default)))
    value = None if before is None or isinstance(before, dict) else before
    if argument.choices or argument.type == "bool":
        choices = {_text(choice): _text(choice) for choice in argument.choices} or {"true": "yes", "false": "no"}
        chosen = ui.select(
            {"": "as the tool has it" if not needed else "choose", **choices},
            value=_text(value) if _text(value) in choices else "",
            label=argument.id + needed,
        )
        made: Any = chosen
    else:
        made = ui.input(argument.id + needed, value="" if value is None else _text(value))
        if argument.type in ("int", "float"):
            made.props("inputmode=decimal")
    made.props("outlined").props["hint"] = hint
    several = isinstance(argument.default, tuple)
    return lambda: [part.strip() for part in made.value.split(",")] if several and made.value else made.value


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


@dataclass(frozen=True)
class Planned:
    """What was asked, what the nodes said, and what of it would keep it from succeeding."""

    asked: ToolRequest
    plan: Plan
    refused: str
    #: However often it is pressed, a plan is run once.
    key: str = field(default_factory=lambda: uuid4().hex)


def plan_of(services: Services, who: Caller, name: str, given: dict[str, Any]) -> Planned:
    """Ask the nodes; waits for them."""
    services.gate.allow(who, Action.TOOLS_PLAN, Asked(who.name, given["project"]))
    asked = build(ToolRequest, tool=name, user=who.name, **given)
    found = asyncio.run(plan(services.centre, find_tool(services.centre.records, name), asked))
    try:
        found.check()
    except PlanRefused as error:
        return Planned(asked, found, error.message)
    return Planned(asked, found, "")


def submitted(services: Services, who: Caller, made: Planned) -> str:
    """Submit what was planned; the id of the execution."""
    services.gate.allow(who, Action.EXECUTIONS_SUBMIT, Asked(who.name, made.asked.project))
    return str(submit(services.centre, services.submitter, made.asked, made.key).execution)


def _plan(made: Planned, run: Callable[[Planned], Any]) -> None:
    shared.heading("Plan")
    rows = [
        {"id": f"{one.task} {one.node}", "node": one.node, "task": one.task, "state": one.presence, "answer": one.says(),
         "runs": shlex.join(one.argv)[:LETTERS]}
        for one in made.plan.runs
    ]  # fmt: skip
    shared.table("What each node would do", ("node", "task", "state", "answer", "runs"), rows, rows_at_most=len(rows))
    if made.refused:
        note("error", "It would not succeed.", made.refused)
    else:
        ui.label(
            f"{sum(made.plan.hopeful(node) for node in made.plan.nodes)} of {len(made.plan.nodes)} nodes may succeed, {made.plan.needed} must."
        )

    async def pressed() -> None:
        button.disable()
        await run(made)
        button.enable()

    button = ui.button("Run all the same" if made.refused else "Run", icon="play_arrow", on_click=pressed).props("no-caps")
