"""The command `fem`. Imports inside the commands: `--help` must be quick, and Prefect alone takes seconds.

Exit codes: 0 succeeded, 1 the task failed, 2 bad usage, 3 infrastructure, 4 refused by the node, 130 interrupted.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from flows import (
    cli_apply,
    cli_audit,
    cli_ca,
    cli_health,
    cli_keys,
    cli_nodes,
    cli_queue,
    cli_records,
    cli_reports,
    cli_simulate,
    cli_sync,
    cli_tool_run,
    cli_tools,
    cli_watching,
)

if TYPE_CHECKING:
    from fdn_worker.errors import FdnError
    from federation.results import TaskResult

#: Where a command line keeps what stands after `--`.
COMMAND = "fem.command"
SUCCEEDED, FAILED, USAGE, INFRASTRUCTURE, REFUSED, INTERRUPTED = 0, 1, 2, 3, 4, 130

app = typer.Typer(
    help="Run tasks at federated data nodes, on data that stays there.\n\nExit codes: 0 succeeded, 1 task failed, 2 bad usage, "
    "3 infrastructure, 4 refused by the node, 130 interrupted.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip


def _version(wanted: bool) -> None:
    if wanted:
        from fdn_worker import __version__

        typer.echo(f"fem {__version__}")
        raise typer.Exit


@app.callback()
def _main(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    pass


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


@app.command(cls=ToolOrCommand)
def run(
    context: typer.Context,
    tool: Annotated[
        str | None, typer.Argument(help="A tool's name, or its file; or a command after --.", metavar="TOOL | -- COMMAND")
    ] = None,
    node: cli_tool_run.Nodes = None,
    server_node: cli_tool_run.ServerNode = None,
    arg: cli_tool_run.Arguments = None,
    args: cli_tool_run.ArgumentsFile = None,
    input_: cli_tool_run.Inputs = None,
    quorum: cli_tool_run.Quorum = "all",
    on_node_offline: cli_tool_run.OnOffline = "wait",
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
    user: cli_tool_run.User = None,
    project: cli_tool_run.Project = "",
    key: Annotated[str | None, typer.Option("--key", help="Idempotency key: a second run with it is the first one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The result as JSON, and nothing else.")] = False,
) -> None:
    """Run a tool at nodes, or a command at one, and follow it. Ctrl-C asks the nodes to cancel.

    Examples: fem run data-summary --node all --arg dataset=census
    | fem run --node site-a --image python:3.11 --dataset census --output '*.csv' -- python $SOURCE_PATH/main.py
    """
    import os

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
        asked = cli_tool_run.submission(
            tool, node or [], arg or [], args, server_node=server_node, inputs=tuple(input_ or ()), quorum=quorum,
            on_node_offline=on_node_offline, fail_fast=fail_fast, max_parallel=max_parallel, user=user, **common,
        )  # fmt: skip
        found = cli_tool_run.make_plan(asked)
        found.check()
        _quiet_prefect(os.environ)
        from flows.cli_run import submit_tool

        execution = submit_tool(asked, key or "", found, quiet=json)
        told, code = execution.model_dump_json(indent=2), cli_tool_run.exit_code(execution)
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
        _quiet_prefect(os.environ)
        from flows.cli_run import submit

        single = submit(fields | {"idempotency_key": key or ""}, quiet=json)
        told, code = single.model_dump_json(indent=2), exit_code(single)
    if json:
        typer.echo(told)
    raise typer.Exit(code)


def _quiet_prefect(environ: MutableMapping[str, str]) -> None:
    """Before Prefect is imported."""
    environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # Where no server runs Prefect starts its own, which on a busy machine takes longer than the 20 s that it allows itself.
    environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")


# After `run`, so that it stands first in the help.
cli_tool_run.add_to(app)
cli_watching.add_to(app)
cli_records.add_to(app)
cli_reports.add_to(app)
cli_nodes.add_to(app)
cli_keys.add_to(app)
cli_audit.add_to(app)
cli_health.add_to(app)
cli_ca.add_to(app)
cli_queue.add_to(app)
cli_tools.add_to(app)
cli_apply.add_to(app)
cli_sync.add_to(app)
cli_simulate.add_to(app)


def _pairs(words: list[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise typer.BadParameter(f"--env {word!r}: write NAME=VALUE")
        pairs[name] = value
    return pairs


def exit_code(result: TaskResult) -> int:
    """What an ended task means to the shell."""
    from fdn_worker.protocol import State

    if result.state is State.REJECTED:
        return REFUSED
    if result.state is State.CANCELLED:
        return INTERRUPTED
    if result.state is State.SUCCEEDED:
        return SUCCEEDED
    return INFRASTRUCTURE if result.reason is not None and result.reason.fault == "infrastructure" else FAILED


def exit_code_of(error: FdnError) -> int:
    """What an error means to the shell."""
    from fdn_worker.errors import Fault, SettingsError

    if error.fault is Fault.POLICY:
        return REFUSED
    return USAGE if isinstance(error, SettingsError) or error.fault is Fault.USER or error.code == "bad-name" else INFRASTRUCTURE


def main() -> None:
    """The entry point: what goes wrong is told in one line."""
    from fdn_worker.errors import FdnError

    try:
        app()
    except FdnError as error:
        typer.echo(f"fem: {error}", err=True)
        sys.exit(exit_code_of(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        # Before the interpreter ends its threads, which the relay still uses.
        if connection := sys.modules.get("flows.connection"):
            connection.close()


if __name__ == "__main__":
    main()
