"""`fem nodes`, `keys`, `relay`, `blocks`: the operator's commands."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
nodes = typer.Typer(help="The nodes, and when each was last heard.", add_completion=False)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(nodes, name="nodes")
    for command in (keys, relay, blocks):
        app.command()(command)


@nodes.callback(invoke_without_command=True)
def list_nodes(context: typer.Context, json: Json = False) -> None:
    """The nodes, and when each was last heard: connected, suspect (three heartbeats missed) or gone."""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from fdn_worker.protocol.names import BEATS
    from federation.presence import presence
    from flows import connection

    centre = connection.centre()
    found = presence(centre.records)
    beats = centre.broker.depth(BEATS)
    if found and (beats is None or not beats.consumers):
        typer.echo("no relay is running, so nothing new was heard: see `fem relay`", err=True)
    if json:
        typer.echo("[" + ",\n ".join(node.model_dump_json() for node in found) + "]")
        return
    narrow = [Column(name, no_wrap=True) for name in ("node", "presence", "heard", "version", "free")]
    table = Table(*narrow, "launchers", "datasets", box=None, pad_edge=False)
    colours = {"connected": "green", "suspect": "yellow", "gone": "red"}
    for node in found:
        table.add_row(
            node.name, Text(node.presence, colours[node.presence]), _ago(node.last_seen), node.version,
            f"{node.slots_free}/{node.slots}", ", ".join(node.launchers), ", ".join(node.datasets),
        )  # fmt: skip
    console = Console(markup=False, highlight=False)
    console.print(table if found else "no nodes yet: `fem nodes enrol NAME`")
    for node in found:
        for problem in node.problems:
            console.print(f"{node.name}: {problem}", style="yellow")


def _ago(moment: datetime | None) -> str:
    if moment is None:
        return "never"
    from fdn_worker.protocol import now

    seconds = (now() - moment).total_seconds()
    return f"{seconds:.0f} s ago" if seconds < 120 else f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{moment:%Y-%m-%d %H:%M}"


@nodes.command()
def enrol(
    name: Annotated[str, typer.Argument(help="Its id: a-z, 0-9 and -.")],
    public_key: Annotated[str, typer.Option("--key", help="Its public key, as `fdn-worker init` printed it.")] = "",
    display_name: Annotated[str, typer.Option(help="A name for people.")] = "",
) -> None:
    """Make a node's queues stand and take its word from now on. Doing it again mends or changes it."""
    from fdn_worker.errors import SettingsError
    from federation import enrol as enrolment
    from flows import connection

    centre = connection.centre()
    if not public_key and not centre.settings.embedded:
        raise SettingsError(f"node {name} needs its public key here", remedy="--key: `fdn-worker init` printed it at the site")
    enrolment.enrol(centre.broker, centre.records, name, public_key=public_key, display_name=display_name)
    typer.echo(f"enrolled {name}")


@nodes.command()
def retire(name: Annotated[str, typer.Argument(help="Its id.")]) -> None:
    """Take a node out of the federation. The orders that wait for it are dropped."""
    from federation import enrol as enrolment
    from flows import connection

    centre = connection.centre()
    enrolment.retire(centre.broker, centre.records, name)
    typer.echo(f"retired {name}")


def keys(path: Annotated[Path | None, typer.Argument(help="The private key's file; without it, in the home folder.")] = None) -> None:
    """Make the centre's signing key. Prints the public one, for the nodes' settings; replaces none."""
    from fdn_worker.protocol import Signer
    from fdn_worker.protocol.envelope import make_key
    from federation.settings import default_home

    private = (path or default_home() / "centre.key").absolute()
    make_key(private)
    typer.echo(f"wrote {private}; set key = {str(private)!r} in fem.toml (FEM_KEY)\nfor each node's [keys.trusted]:\n"
               f'centre = "{Signer.load("centre", private).public_key()}"')  # fmt: skip


def relay() -> None:
    """Serve as the federation's relay. It ends with SIGTERM or SIGINT; a second one stands by."""
    import logging
    import signal
    import threading

    from flows import connection

    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    serving = connection.centre().relay()
    serving.start()
    typer.echo("relay is up")
    stop.wait()
    serving.stop()


def blocks(name: Annotated[str, typer.Argument(help="Under which name.")] = "default") -> None:
    """Save this federation's addresses as Prefect blocks. Registers the block types, too."""
    from flows.cli_blocks import save

    for saved in save(name):
        typer.echo(f"saved {saved}")
    typer.echo(f"flows take them with FEM_BLOCKS={name}")
