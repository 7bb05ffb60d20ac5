"""`fem health` and `fem images`: questions to the nodes, answered over their control queues, without Prefect."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli_records import Json

if TYPE_CHECKING:
    from fdn_worker.protocol import Answer

#: Seconds that a node has to pull an image.
PULL_SECONDS = 1800.0

At = Annotated[str, typer.Argument(help="The node.", metavar="NODE")]
Image = Annotated[str, typer.Argument(help="name:tag; to pull, also name@sha256:...", metavar="IMAGE")]
images = typer.Typer(help="The images at a node: list, pull, remove, where its site allows it.", add_completion=False, no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(health)
    app.add_typer(images, name="images")


def health(
    nodes: Annotated[list[str] | None, typer.Argument(help="Nodes; all, if none is named.", metavar="[NODE]...")] = None,
    image: Annotated[list[str] | None, typer.Option("--image", "-i", help="An image that is to be at each; may be given again.")] = None,
    ping: Annotated[bool, typer.Option("--ping", help="Only who answers, and how soon.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds that they have to answer.")] = 10.0,
    json: Json = False,
) -> None:
    """Ask nodes how they are. Exit code 3 when something has to be mended."""
    import asyncio

    from rich.console import Console
    from rich.text import Text

    from federation.health import check, summarise
    from flows import connection
    from flows.listing import listing
    from flows.report import human

    found = asyncio.run(check(connection.centre(), nodes or (), images=image or (), user=getpass.getuser(), seconds=wait))
    good = all(one.answered if ping else one.healthy for one in found)
    if json:
        typer.echo("[" + ",\n ".join(one.model_dump_json() for one in found) + "]")
        raise typer.Exit(0 if good else 3)
    colours = {"connected": "green", "suspect": "yellow", "gone": "red"}
    rows: list[tuple[str | Text, ...]] = []
    for one in found:
        said = one.health
        answer = "none" if one.seconds is None else f"{1000 * one.seconds:.0f} ms"
        facts = (
            "" if one.offset is None else f"{one.offset:+.1f} s", said.worker_version if said else "", human(said.disk_free) if said else "",
            f"{said.certificate_expires:%Y-%m-%d}" if said and said.certificate_expires else "",
            ", ".join(f"{name} {fact}" for name, fact in sorted(said.launchers.items())) if said else "",
            Text("; ".join(one.problems), "yellow" if one.answered else "red"),
        )  # fmt: skip
        rows.append((one.node, Text(one.presence, colours[one.presence]), answer, *(("",) * len(facts) if ping else facts)))
    header = ("node", "presence", "answer", "clock", "version", "disk", "certificate", "launchers", "to be mended")
    table = listing(header, rows, wrap=("launchers", "to be mended"))
    console = Console(markup=False, highlight=False)
    if found:
        console.print(table)
    if not ping:
        summary = summarise(found)
        console.print(f"{summary.name}: {summary.message}", soft_wrap=True)
    raise typer.Exit(0 if good else 3)


@images.command("list")
def list_images(node: At, json: Json = False) -> None:
    """What is there."""
    _show(_ask(node, "list", ""), json)


@images.command()
def pull(node: At, image: Image, json: Json = False) -> None:
    """Have the node fetch an image."""
    _show(_ask(node, "pull", image, seconds=PULL_SECONDS), json)


@images.command()
def remove(node: At, image: Image, json: Json = False) -> None:
    """Have the node remove an image."""
    _show(_ask(node, "remove", image), json)


def _ask(node: str, action: str, image: str, **options: Any) -> Answer:
    """The node's answer; PolicyRefused when the site says no."""
    import asyncio

    from fdn_worker.errors import Fault, PolicyRefused, SystemFault
    from federation.catalogue.find import find_node
    from federation.inquiry import ask
    from flows import connection

    centre = connection.centre()
    name = find_node(centre.records, node)
    answers = asyncio.run(ask(centre, [name], "images", action=action, image=image, user=getpass.getuser(), **options))
    if name not in answers:
        raise SystemFault(
            f"node {name} did not answer", code="no-answer", remedy="see `fem nodes`; what it was asked to do may still happen"
        )
    refused = answers[name].refused
    if refused is not None:
        kind = PolicyRefused if refused.fault is Fault.POLICY else SystemFault
        raise kind(refused.message, code=refused.code)
    return answers[name]


def _show(answer: Answer, json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from flows.cli_records import print_json
    from flows.report import human

    if json:
        print_json([image.model_dump() for image in answer.images])
        return
    table = Table("image", "size", "digest", box=None, pad_edge=False)
    for image in answer.images:
        table.add_row(image.name, human(image.size), image.digest[:19])
    Console(markup=False, highlight=False).print(table if answer.images else "no images")
