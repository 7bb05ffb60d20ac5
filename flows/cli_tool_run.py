"""`fem plan TOOL` and `fem run TOOL`: the command line's words as a submission, its plan in a table, its end as an exit code."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from federation.execution import ExecutionResult
    from federation.plan import Plan
    from federation.tool_request import ToolRequest

Tool = Annotated[str, typer.Argument(help="Its name, or the path of its YAML file.", metavar="TOOL")]
Nodes = Annotated[list[str] | None, typer.Option("--node", "-n", help="A node, several with commas between, or all. May be given again.")]
ServerNode = Annotated[str | None, typer.Option(help="Where the tool's server runs, if it has one.")]
Arguments = Annotated[
    list[str] | None, typer.Option("--arg", "-a", help="NAME=VALUE, or NODE:NAME=VALUE for that node alone; again for a list.")
]  # fmt: skip
ArgumentsFile = Annotated[Path | None, typer.Option("--args", help="YAML or JSON file with arguments.")]
Quorum = Annotated[str, typer.Option(help="How many nodes must succeed: all, a number, or such as 80%.")]
OnOffline = Annotated[str, typer.Option("--on-node-offline", help="For a node that is gone: wait, skip or fail.")]
Inputs = Annotated[list[str] | None, typer.Option("--input", help="A file, or NAME=FILE; at $INPUT_PATH.")]
User = Annotated[str | None, typer.Option(help="For whom; you, if left out.")]
Project = Annotated[str, typer.Option(help="For what.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON, and nothing else.")]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(plan)


def submission(tool: str, nodes: Sequence[str], arguments: Sequence[str], file: Path | None, **fields: Any) -> ToolRequest:
    """The submission that these words mean; BadRequest says which of them is wrong."""
    from federation.request import BadRequest, build
    from federation.tool_request import ToolRequest
    from flows import connection

    names = [name.strip() for word in nodes for name in word.split(",") if name.strip()]
    if names == ["all"]:
        names = [row.name for row in connection.centre().records.nodes() if row.retired is None]
    if not names:
        raise BadRequest("no node is named", remedy="--node NODE, --node A,B or --node all")
    given = fields | {"user": fields["user"] if fields.get("user") is not None else getpass.getuser()}
    given = {name: value for name, value in given.items() if value is not None}
    return build(ToolRequest, tool=tool, nodes=names, arguments=_arguments(arguments, file), **given)


def _arguments(words: Sequence[str], file: Path | None) -> dict[str, Any]:
    """Those of the file, and over them those of the words: one that is given again is a list."""
    from federation.request import BadRequest

    found: dict[str, Any] = _read(file) if file else {}
    said: dict[tuple[str, ...], list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise BadRequest(f"--arg {word!r} has no value", remedy="write NAME=VALUE")
        said.setdefault(tuple(name.split(":", 1)), []).append(value)
    for path, values in said.items():
        place = found.setdefault(path[0], {}) if len(path) > 1 else found
        if not isinstance(place, dict):
            raise BadRequest(f"--arg {':'.join(path)}: {path[0]} is an argument, not a node", remedy="write NODE:NAME=VALUE")
        place[path[-1]] = values[0] if len(values) == 1 else values
    return found


def _read(file: Path) -> dict[str, Any]:
    import yaml

    from federation.request import BadRequest

    try:
        found = yaml.safe_load(file.read_text())
    except OSError as error:
        raise BadRequest(f"--args {file}: {error.strerror}", remedy="mend its path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadRequest(f"--args {file}: {' '.join(str(error).split())}", remedy="mend the YAML there") from error
    if not isinstance(found, dict):
        raise BadRequest(f"--args {file} holds no table of arguments", remedy="write NAME: VALUE, a line each")
    return {str(name): value for name, value in found.items()}


def plan(
    tool: Tool,
    node: Nodes = None,
    server_node: ServerNode = None,
    arg: Arguments = None,
    args: ArgumentsFile = None,
    input_: Inputs = None,
    quorum: Quorum = "all",
    on_node_offline: OnOffline = "wait",
    user: User = None,
    project: Project = "",
    json: Json = False,
) -> None:
    """What would come of a submission: asked of each node, before anything is sent. Exit code 4 when too few would accept."""
    asked = submission(
        tool, node or [], arg or [], args, server_node=server_node, inputs=tuple(input_ or ()), quorum=quorum,
        on_node_offline=on_node_offline, user=user, project=project,
    )  # fmt: skip
    found = make_plan(asked)
    if json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        show_plan(found)
    found.check()


def make_plan(asked: ToolRequest) -> Plan:
    """Ask the nodes."""
    import asyncio

    from federation.catalogue.find import find_tool
    from federation.plan import plan as ask
    from flows import connection

    centre = connection.centre()
    return asyncio.run(ask(centre, find_tool(centre.records, asked.tool), asked))


def show_plan(found: Plan) -> None:
    """A row for each task at each node, and what would be executed."""
    import shlex

    from rich.console import Console
    from rich.text import Text

    from flows.listing import listing

    console = Console(markup=False, highlight=False)
    colours = {True: "green", False: "red", None: "yellow"}
    rows: list[tuple[str | Text, ...]] = []
    for run in found.runs:
        here = "" if run.image_here is None else "here" if run.image_here else "to be pulled"
        free = "" if run.slots_free is None else str(run.slots_free)
        rows.append((run.node, run.task, run.presence, here, free, Text(run.says(), colours[run.accepts])))
    table = listing(("node", "task", "presence", "image", "free", "verdict"), rows, wrap=("verdict",))
    console.print(table)
    commands: dict[tuple[str, ...], list[str]] = {}
    for run in found.runs:
        commands.setdefault((run.task, *run.argv), []).append(run.node)
    for (task, *argv), nodes in commands.items():
        where = f"all {len(nodes)} nodes" if len(nodes) > 3 else ", ".join(nodes)
        console.print(f"\n{task} at {where}:\n  {shlex.join(argv)}", soft_wrap=True)


def exit_code(result: ExecutionResult) -> int:
    """What an ended execution means to the shell: see `fem --help`."""
    from fdn_worker.errors import Fault
    from fdn_worker.protocol import State

    if result.state in ("Succeeded", "Degraded"):
        return 0
    if result.state == "Cancelled":
        return 130
    bad = [run for run in result.runs if run.state is not State.SUCCEEDED]
    if bad and all(run.state is State.REJECTED for run in bad):
        return 4
    user = any(run.reason is not None and run.reason.fault is Fault.USER for run in bad)
    return 1 if user or not bad else 3
