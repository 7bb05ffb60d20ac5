"""`fem nodes`, `relay`, `reconcile`, `blocks`: the operator's commands."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from flows import cli_keys

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
nodes = typer.Typer(help="The nodes, and when each was last heard.", add_completion=False)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(nodes, name="nodes")
    for command in (relay, reconcile, blocks):
        app.command()(command)


@nodes.callback(invoke_without_command=True)
def list_nodes(context: typer.Context, json: Json = False) -> None:
    """The nodes, and when each was last heard: connected, suspect (three heartbeats missed) or gone."""
    if context.invoked_subcommand is None:
        _list(json)


@nodes.command("list")
def list_too(json: Json = False) -> None:
    """The same."""
    _list(json)


def _list(json: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    from fdn_worker.protocol.names import BEATS
    from federation.presence import presence
    from flows import connection
    from flows.listing import listing
    from flows.report import human

    centre = connection.centre()
    found = presence(centre.records)
    beats = centre.broker.depth(BEATS)
    if found and (beats is None or not beats.consumers):
        typer.echo("no relay is running, so nothing new was heard: see `fem relay`", err=True)
    if json:
        typer.echo("[" + ",\n ".join(node.model_dump_json() for node in found) + "]")
        return
    colours = {"connected": "green", "suspect": "yellow", "gone": "red"}
    table = listing(
        ("node", "presence", "heard", "version", "free", "disk", "images", "launchers", "datasets"),
        [
            (
                node.name, Text(node.presence, colours[node.presence]), _ago(node.last_seen), node.version, f"{node.slots_free}/{node.slots}",
                human(node.disk_free) if node.last_seen else "", str(len(node.images) or ""), ", ".join(node.launchers), ", ".join(node.datasets),
            )
            for node in found
        ],
        wrap=("launchers", "datasets"),
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
def show(name: Annotated[str, typer.Argument(help="Its id or display name.")], json: Json = False) -> None:
    """All that is known of one node: what it said last, and its catalogue entry."""
    from federation.catalogue.find import find_node
    from federation.catalogue.node import NodeEntry
    from federation.presence import presence
    from flows import connection
    from flows.report import human

    records = connection.centre().records
    name = find_node(records, name)
    (node,) = [node for node in presence(records) if node.name == name]
    row = records.node(name)
    entry = NodeEntry.model_validate_json(row.document) if row and row.document else None
    if json:
        import json as text

        known = {"catalogue": entry.model_dump(mode="json", exclude_defaults=True) if entry else None}
        typer.echo(text.dumps(node.model_dump(mode="json") | known, indent=1))
        return
    facts = {
        "display name": node.display_name, "presence": f"{node.presence}, heard {_ago(node.last_seen)}",
        "paused": f"since {row.paused:%Y-%m-%d %H:%M} UTC" if row and row.paused else "",
    }  # fmt: skip
    if node.last_seen:
        facts |= {
            "version": node.version, "takes orders": "yes" if node.accepting else "no", "problems": "; ".join(node.problems),
            "slots free": f"{node.slots_free} of {node.slots}", "runs there": str(node.present), "processors": f"{node.cpus:g}",
            "memory": human(node.memory), "GPUs": str(node.gpus), "disk free": human(node.disk_free), "address": node.address,
            "launchers": ", ".join(node.launchers), "datasets": ", ".join(node.datasets), "images": ", ".join(node.images),
            "trusts keys": ", ".join(node.trusts), "audit log": str(node.audit or ""),
        }  # fmt: skip
    if entry:
        facts |= {
            f"catalogue: {key}": _plain(value) for key, value in entry.model_dump(mode="json", exclude_defaults=True).items() if key != "id"
        }
    typer.secho(name, bold=True)
    for label, value in facts.items():
        if value:
            typer.echo(f"  {label:<14} {value}")


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_plain(each)}" for key, each in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)


@nodes.command()
def enrol(
    name: Annotated[str, typer.Argument(help="Its id: a-z, 0-9 and -.")],
    public_key: Annotated[str, typer.Option("--key", help="Its public key, as `fdn-worker init` printed it.")] = "",
    display_name: Annotated[str, typer.Option(help="A name for people.")] = "",
) -> None:
    """Make a node's queues stand and take its word from now on. Doing it again mends or changes it.

    Without --key it only writes the bundle that the site needs to make its key.
    """
    from federation import bundle
    from federation import enrol as enrolment
    from federation.management import Management
    from flows import connection

    centre = connection.centre()
    folder = bundle.write(centre.settings, name)
    typer.echo(f"bundle for the site: {folder}")
    if not public_key and not centre.settings.embedded:
        typer.echo(f"not enrolled yet: send it, and do this again with the key that it gives: fem nodes enrol {name} --key KEY")
        return
    password = enrolment.enrol(
        centre.broker, centre.records, name, public_key=public_key, display_name=display_name, management=Management.of(centre.settings)
    )  # fmt: skip
    if password:
        bundle.write(centre.settings, name, password=password)
        typer.echo("the bundle holds the site's password at the broker now: send it by a way that nobody else reads")
    typer.echo(f"enrolled {name}")


@nodes.command()
def retire(name: Annotated[str, typer.Argument(help="Its id.")]) -> None:
    """Take a node out of the federation. The orders that wait for it are dropped."""
    from federation import enrol as enrolment
    from federation.management import Management
    from flows import connection

    centre = connection.centre()
    enrolment.retire(centre.broker, centre.records, name, management=Management.of(centre.settings))
    typer.echo(f"retired {name}")


def relay() -> None:
    """Serve as the federation's relay. It ends with SIGTERM or SIGINT; a second one stands by.

    Suspended executions that have something to do again are told to Prefect (PREFECT_API_URL).
    """
    import logging
    import signal
    import threading

    from flows import connection
    from flows.server import drain
    from flows.waking import Waker

    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    centre = connection.centre()
    waker = Waker(centre)
    serving = centre.relay(waker.tell)
    waker.start()
    serving.start()
    typer.echo("relay is up")
    stop.wait()
    serving.stop()
    waker.stop()
    drain()


def reconcile(
    grace: Annotated[float | None, typer.Option(help="Seconds after a flow run's crash or failure in which a retry may come.")] = None,
) -> None:
    """Once: end at the nodes what no live flow run wants, and resume what is suspended though it has something to do."""
    from federation.reconciling import GRACE
    from flows import connection
    from flows.reconcile import one_pass
    from flows.server import drain

    done = one_pass(connection.centre(), GRACE if grace is None else grace)
    for name, ids in (("cancelled", done.cancelled), ("closed", done.closed), ("resumed", done.resumed), ("left", done.left)):
        for execution in ids:
            typer.echo(f"{name} {execution}")
    typer.echo(done.explain())
    drain()


def blocks(name: Annotated[str, typer.Argument(help="Under which name.")] = "default") -> None:
    """Save this federation's addresses as Prefect blocks. Registers the block types, too."""
    from flows.cli_blocks import save

    for saved in save(name):
        typer.echo(f"saved {saved}")
    typer.echo(f"flows take them with FEM_BLOCKS={name}")


nodes.command("keys")(cli_keys.of_node)
nodes.command("add-key")(cli_keys.add)
nodes.command("revoke-key")(cli_keys.revoke)
