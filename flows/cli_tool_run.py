"""`fem run` and `fem plan`: the command line's words as a submission, its plan in a table, its end as an exit code."""

from __future__ import annotations

import getpass
import os
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from flows import exit_codes

if TYPE_CHECKING:
    from federation.plan import Plan
    from federation.tool_request import ToolRequest

#: Where a command line keeps what stands after `--`.
COMMAND = "fem.command"
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
    """Add the commands."""
    app.command(cls=ToolOrCommand)(run)
    app.command()(plan)


class ToolOrCommand(typer.core.TyperCommand):
    """What stands after `--` is a command, and never taken for the tool's name."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        before, dashes, command = args, "--" in args, []
        if dashes:
            before, command = args[: args.index("--")], args[args.index("--") + 1 :]
        context = super().make_context(info_name, before, parent, **extra)
        if dashes:
            context.meta[COMMAND] = command
        return context


def run(
    context: typer.Context,
    tool: Annotated[
        str | None, typer.Argument(help="A tool's name, or its file; or a command after --.", metavar="TOOL | -- COMMAND")
    ] = None,
    node: Nodes = None,
    server_node: ServerNode = None,
    arg: Arguments = None,
    args: ArgumentsFile = None,
    input_: Inputs = None,
    quorum: Quorum = "all",
    on_node_offline: OnOffline = "wait",
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End the rest once the quorum cannot be reached.")] = False,
    max_parallel: Annotated[int | None, typer.Option(help="Nodes at once; all, if left out.")] = None,
    image: Annotated[str | None, typer.Option("--image", "-i", help="Of a command: container image, name:tag.")] = None,
    image_digest: Annotated[str | None, typer.Option(help="Of a command: sha256:..., to insist on these bytes.")] = None,
    launcher: Annotated[str | None, typer.Option(help="Of a command: docker or process; the node's choice if left out.")] = None,
    dataset: Annotated[list[str] | None, typer.Option("--dataset", "-d", help="Of a command: a dataset; at $DATA_PATH/NAME.")] = None,
    output: Annotated[list[str] | None, typer.Option("--output", "-o", help="Of a command: pattern of files to send back.")] = None,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", help="Of a command: NAME=VALUE.")] = None,
    cpus: Annotated[float | None, typer.Option(help="Of a command: processors.")] = None,
    memory: Annotated[str | None, typer.Option(help="Of a command: such as 512MiB or 2GB.")] = None,
    gpus: Annotated[int | None, typer.Option(help="Of a command: GPUs.")] = None,
    disk: Annotated[str | None, typer.Option(help="Of a command: size of the sandbox.")] = None,
    network: Annotated[bool, typer.Option("--network", help="Of a command: ask for the network; the node decides.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Of a command: seconds from start to end by force.")] = None,
    repository: Annotated[str | None, typer.Option(help="Of a command: https:// Git repository, at $SOURCE_PATH.")] = None,
    commit: Annotated[str | None, typer.Option(help="Of a command: its commit.")] = None,
    deadline: Annotated[str | None, typer.Option(help="Moment by which it must end: 2030-01-31T12:00:00+01:00.")] = None,
    retries: Annotated[int, typer.Option(help="New attempts after faults of the infrastructure.")] = 0,
    user: User = None,
    project: Project = "",
    key: Annotated[str | None, typer.Option("--key", help="Idempotency key: a second run with it is the first one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The result as JSON, and nothing else.")] = False,
) -> None:
    """Run a tool at nodes, or a command at one, and follow it. Ctrl-C asks the nodes to cancel.

    Examples: fem run data-summary --node all --arg dataset=census
    | fem run --node site-a --image python:3.11 --dataset census --output '*.csv' -- python $SOURCE_PATH/main.py
    """
    command: list[str] | None = context.meta.get(COMMAND)
    if (tool is None) == (command is None):
        raise typer.BadParameter("name a tool, or give a command after --, one of the two")
    common: dict[str, Any] = {"deadline": deadline, "retries": retries, "project": project}
    of_command = {
        "image": image, "image_digest": image_digest, "launcher": launcher, "datasets": dataset, "outputs": output,
        "environment": _pairs(env or []) or None, "cpus": cpus, "memory": memory, "gpus": gpus, "disk": disk, "network": network or None,
        "timeout": timeout, "repository": repository, "commit": commit,
    }  # fmt: skip
    # What is wrong is told before Prefect is even imported.
    if tool is not None:
        if misplaced := sorted(name for name, value in of_command.items() if value is not None):
            raise typer.BadParameter(f"{', '.join(misplaced)}: a tool says that itself; it is for a command after --")
        asked = submission(
            tool, node or [], arg or [], args, server_node=server_node, inputs=tuple(input_ or ()), quorum=quorum,
            on_node_offline=on_node_offline, fail_fast=fail_fast, max_parallel=max_parallel, user=user, **common,
        )  # fmt: skip
        found = make_plan(asked)
        found.check()
        quiet_prefect(os.environ)
        from flows.cli_run import submit_tool

        execution = submit_tool(asked, key or "", found, quiet=json)
        told, code = execution.model_dump_json(indent=2), exit_codes.of_execution(execution)
    else:
        from federation.request import TaskRequest, build
        from flows import connection

        if not node or len(node) > 1:
            raise typer.BadParameter("a command runs at one node: --node NODE (a tool runs at many)")
        fields = common | of_command | {
            "node": node[0], "argv": command, "inputs": input_, "user": getpass.getuser() if user is None else user,
        }  # fmt: skip
        fields = {name: value for name, value in fields.items() if value is not None}
        connection.centre().check(build(TaskRequest, **fields))
        quiet_prefect(os.environ)
        from flows.cli_run import submit

        single = submit(fields | {"idempotency_key": key or ""}, quiet=json)
        told, code = single.model_dump_json(indent=2), exit_codes.of_task(single)
    if json:
        typer.echo(told)
    raise typer.Exit(code)


def quiet_prefect(environ: MutableMapping[str, str]) -> None:
    """Before Prefect is imported."""
    environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # Where no server runs Prefect starts its own, which on a busy machine takes longer than the 20 s that it allows itself.
    environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")


def _pairs(words: list[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise typer.BadParameter(f"--env {word!r}: write NAME=VALUE")
        pairs[name] = value
    return pairs


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
    """Ask the nodes; in a terminal it says so meanwhile."""
    import asyncio

    from rich.console import Console

    from federation.catalogue.find import find_tool
    from federation.plan import plan as ask
    from flows import connection

    centre = connection.centre()
    tool = find_tool(centre.records, asked.tool)
    with Console(stderr=True, highlight=False).status(f"asking {', '.join(asked.nodes[:3])}{' and others' * (len(asked.nodes) > 3)} ..."):
        return asyncio.run(ask(centre, tool, asked))


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
