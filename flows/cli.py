"""The command `fem`. Imports inside the commands: `--help` must be quick, and Prefect alone takes seconds.

Exit codes: 0 succeeded, 1 the task failed, 2 bad usage, 3 infrastructure, 4 refused by the node, 130 interrupted.
"""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import cli_nodes, cli_records

if TYPE_CHECKING:
    from fdn_worker.errors import FdnError
    from federation.results import TaskResult

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


@app.command()
def run(
    argv: Annotated[list[str], typer.Argument(help="The command, after --.", metavar="-- COMMAND")],
    node: Annotated[str, typer.Option("--node", "-n", help="The node to run at.")],
    image: Annotated[str | None, typer.Option("--image", "-i", help="Container image, name:tag.")] = None,
    image_digest: Annotated[str | None, typer.Option(help="sha256:..., to insist on these bytes.")] = None,
    launcher: Annotated[str | None, typer.Option(help="docker or process; the node's own choice if left out.")] = None,
    input_: Annotated[list[str] | None, typer.Option("--input", help="A file, or NAME=FILE; at $INPUT_PATH.")] = None,
    dataset: Annotated[list[str] | None, typer.Option("--dataset", "-d", help="A dataset of the node; at $DATA_PATH/NAME.")] = None,
    output: Annotated[list[str] | None, typer.Option("--output", "-o", help="Pattern of files below $SANDBOX_PATH to send back.")] = None,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", help="NAME=VALUE.")] = None,
    cpus: Annotated[float, typer.Option(help="Processors.")] = 1.0,
    memory: Annotated[str, typer.Option(help="Such as 512MiB or 2GB.")] = "1GiB",
    gpus: Annotated[int, typer.Option(help="GPUs.")] = 0,
    disk: Annotated[str, typer.Option(help="Size of the sandbox.")] = "1GiB",
    network: Annotated[bool, typer.Option("--network", help="Ask for the network; the node decides.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds from start to end by force.")] = 3600.0,
    deadline: Annotated[str | None, typer.Option(help="Moment by which it must end: 2030-01-31T12:00:00+01:00.")] = None,
    repository: Annotated[str | None, typer.Option(help="https:// Git repository, at $SOURCE_PATH.")] = None,
    commit: Annotated[str | None, typer.Option(help="Its commit.")] = None,
    retries: Annotated[int, typer.Option(help="New attempts after faults of the infrastructure.")] = 0,
    user: Annotated[str | None, typer.Option(help="For whom; you, if left out.")] = None,
    project: Annotated[str, typer.Option(help="For what.")] = "",
    key: Annotated[str | None, typer.Option("--key", help="Idempotency key: a second run with it is the first one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The result as JSON, and nothing else.")] = False,
) -> None:
    """Run a command at a node, and follow it. Ctrl-C asks the node to cancel.

    Example: fem run --node site-a --image python:3.11 --dataset census --output '*.csv' -- python $SOURCE_PATH/main.py
    """
    import os

    fields: dict[str, Any] = {
        "node": node, "argv": argv, "image": image, "image_digest": image_digest, "launcher": launcher, "inputs": input_, "datasets": dataset,
        "outputs": output, "environment": _pairs(env or []), "cpus": cpus, "memory": memory, "gpus": gpus, "disk": disk, "network": network,
        "timeout": timeout, "deadline": deadline, "repository": repository, "commit": commit, "retries": retries,
        "user": getpass.getuser() if user is None else user, "project": project,
    }  # fmt: skip
    # What is wrong is told before Prefect is even imported.
    from federation.request import TaskRequest, build
    from flows import connection

    fields = {name: value for name, value in fields.items() if value is not None}
    connection.centre().check(build(TaskRequest, **fields))
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    from flows.cli_run import submit

    outcome = submit(fields | {"idempotency_key": key or ""}, quiet=json)
    if json:
        typer.echo(outcome.model_dump_json(indent=2))
    raise typer.Exit(exit_code(outcome))


# After `run`, so that it stands first in the help.
cli_records.add_to(app)
cli_nodes.add_to(app)


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


if __name__ == "__main__":
    main()
