"""`fem queue`: what waits for a node, and whether it takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from federation.centre import Centre

Node = Annotated[str, typer.Argument(help="The node's id or display name.")]
queue = typer.Typer(help="What waits for a node.", no_args_is_help=True, add_completion=False)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(queue, name="queue")


def _open(name: str) -> tuple[Centre, str]:
    from federation.catalogue.find import find_node
    from flows import connection

    centre = connection.centre()
    return centre, find_node(centre.records, name)


@queue.command()
def show(node: Node, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """How the node's queues stand: messages that wait, and who reads them."""
    from federation.node_queue import queues

    centre, name = _open(node)
    row, found = centre.records.node(name), queues(centre, name)
    paused = row.paused if row else None
    if json:
        from json import dumps

        listed = [
            {
                "queue": one.name,
                "messages": one.depth.messages if one.depth else None,
                "consumers": one.depth.consumers if one.depth else None,
            }
            for one in found
        ]
        typer.echo(dumps({"node": name, "paused": paused.isoformat() if paused else None, "queues": listed}, indent=1))
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table("queue", Column("waiting", justify="right"), Column("readers", justify="right"), "what", box=None, pad_edge=False)
    for one in found:
        depth = (str(one.depth.messages), str(one.depth.consumers)) if one.depth else ("missing", "")
        table.add_row(one.name, *depth, one.what)
    console = Console(markup=False, highlight=False)
    console.print(table)
    if paused:
        console.print(f"paused since {paused:%Y-%m-%d %H:%M} UTC: `fem queue resume {name}`", style="yellow")
    if any(one.depth is None for one in found):
        console.print(f"a queue is missing: `fem nodes enrol {name}` makes it again", style="yellow")


@queue.command()
def pause(node: Node) -> None:
    """Have the node take no more orders; they wait. What it has goes on, and it holds over restarts."""
    _set(node, pause=True)


@queue.command()
def resume(node: Node) -> None:
    """Have the node take orders again."""
    _set(node, pause=False)


def _set(node: str, *, pause: bool) -> None:
    import asyncio

    from federation.node_queue import set_intake

    centre, name = _open(node)
    asyncio.run(set_intake(centre, name, pause=pause))
    typer.echo(f"{name} {'is paused' if pause else 'takes orders again'}")


@queue.command()
def purge(node: Node, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Take the waiting orders away; their runs end as CANCELLED, reason purged. What the node has already goes on."""
    from federation.node_queue import purge as take_out
    from federation.node_queue import queues

    centre, name = _open(node)
    depth = queues(centre, name)[0].depth
    waiting = depth.messages if depth else 0
    if waiting and not yes:
        typer.confirm(f"Cancel {waiting} orders that wait for {name}?", abort=True)
    purged = take_out(centre, name)
    for order in purged:
        typer.echo(f"{order.execution} {order.task} attempt {order.attempt}")
    typer.echo(f"{len(purged)} purged" if purged else "nothing waits there")
