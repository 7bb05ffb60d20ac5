"""The command `fem`. `fem --help` must be quick: it reads the table COMMANDS, and a command's module is imported when the command is named.

To add a command: write `flows/cli_NAME.py` with `add_to(app: typer.Typer)`, which adds it (several, or a Typer of its own with its name),
and give each a line in COMMANDS: its module, and the first sentence of its help, which a test compares. Imports that take long (Prefect,
pydantic) stand inside the command.
"""

from __future__ import annotations

import sys
from collections import UserDict
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core

from flows import exit_codes

#: Each command, in the order of the help: its module in `flows`, and the first sentence of its help.
COMMANDS = {
    "run": ("cli_tool_run", "Run a tool at nodes, or a command at one, and follow it."),
    "plan": ("cli_tool_run", "What would come of a submission: asked of each node, before anything is sent."),
    "status": ("cli_watching", "How executions stand."),
    "logs": ("cli_watching", "The log lines that came, of all nodes by time; the whole log is among the files."),
    "cancel": ("cli_watching", "End an execution at all its nodes; each confirms."),
    "files": ("cli_records", "The files that left the sites."),
    "download": ("cli_records", "Fetch outputs and logs, each checked by its SHA-256."),
    "report": ("cli_reports", "What was used, by whom, for what and where."),
    "clean": ("cli_reports", "Delete inputs, outputs and logs of executions that closed long ago."),
    "nodes": ("cli_nodes", "The nodes, and when each was last heard."),
    "relay": ("cli_nodes", "Serve as the federation's relay."),
    "reconcile": ("cli_nodes", "Once: end at the nodes what no live flow run wants, and resume what is suspended though it has something to do."),
    "blocks": ("cli_nodes", "Save this federation's addresses as Prefect blocks."),
    "keys": ("cli_keys", "Make the centre's signing key."),
    "sign-image": ("cli_keys", "Vouch for an image, as its author: prints the signature for the tool, and the public key for the sites that ask for it."),
    "audit": ("cli_audit", "The log of submissions, cancels, enrolments, keys and tools; chained, so that no entry can go or change."),
    "health": ("cli_health", "Ask nodes how they are."),
    "images": ("cli_health", "The images at a node: list, pull, remove, where its site allows it."),
    "ca": ("cli_ca", "Certificates of broker, centre and sites, by an authority of your own."),
    "queue": ("cli_queue", "What waits for a node."),
    "tools": ("cli_tools", "The tools that may be run by name."),
    "apply": ("cli_apply", "Make Prefect's server match prefect.yaml and federation.yaml: work pools, limits, blocks, deployments and automations."),
    "sync": ("cli_sync", "Make the federation match a folder: nodes enrolled or retired, tools added, changed or withdrawn."),
    "models": ("cli_models", "The models of federated learning, and where each came from."),
    "serve": ("cli_serve", "Serve the REST interfaces and the pages, until it is told to end."),
    "users": ("cli_users", "Who may sign in at the gateway by a password."),
    "tokens": ("cli_users", "Tokens by which programs ask the gateway."),
    "learn": ("cli_learn", "Run a session of federated learning to its end."),
    "sessions": ("cli_learn", "Sessions of federated learning."),
    "simulate": ("cli_simulate", "Simulate federated learning, and write what happened with a report."),
}  # fmt: skip


class Commands(UserDict[str, Any]):
    """Typer's commands by name, each made when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        module, _ = self.data[name]
        of_module = typer.Typer(rich_markup_mode=None)
        import_module(f"flows.{module}").add_to(of_module)
        return typer.main.get_group(of_module).commands[name]


class LazyGroup(typer.core.TyperGroup):
    """`fem` itself."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = Commands(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 (Typer's signature)
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


app = typer.Typer(
    cls=LazyGroup, help="Run tasks at federated data nodes, on data that stays there.\n\nExit codes: 0 succeeded, 1 task failed, "
    "2 bad usage, 3 infrastructure, 4 refused by the node, 130 interrupted.",
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


def main() -> None:
    """The entry point: what goes wrong is told in one line."""
    from fdn_worker.errors import FdnError

    try:
        app()
    except FdnError as error:
        typer.echo(f"fem: {error}", err=True)
        sys.exit(exit_codes.of_error(error))
    except KeyboardInterrupt:
        sys.exit(exit_codes.INTERRUPTED)
    finally:
        # Before the interpreter ends its threads, which the relay still uses.
        if connection := sys.modules.get("flows.connection"):
            connection.close()


if __name__ == "__main__":
    main()
