"""`fem ca`: the federation's own certificate authority. It speaks to nobody: run it where its key is safe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from federation.authority import Authority, Issued

ca = typer.Typer(help="Certificates of broker, centre and sites, by an authority of your own.", add_completion=False, no_args_is_help=True)

Folder = Annotated[Path | None, typer.Option("--folder", "-f", help="The authority's folder; without it, `ca` in the home folder.")]
Days = Annotated[int, typer.Option(min=1, max=3650, help="Days for which it is valid; never longer than the root.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(ca, name="ca")


def _place(folder: Path | None) -> Path:
    from federation.settings import default_home

    return (folder or default_home() / "ca").absolute()


def _open(folder: Path | None) -> Authority:
    from federation.authority import Authority

    return Authority.open(_place(folder))


@ca.command()
def init(
    folder: Annotated[Path | None, typer.Argument(help="Its folder; without it, `ca` in the home folder.")] = None,
    name: Annotated[str, typer.Option(help="How the root's certificate calls itself.")] = "federation",
    days: Days = 3650,
) -> None:
    """Make an authority: the root's key and certificate. Replaces none."""
    from federation.authority import Authority

    made = Authority.create(_place(folder), name=name, days=days)
    typer.echo(f"wrote {made.folder}; keep its ca.key off the centre's host: whoever holds it can be any site")


@ca.command()
def server(
    hosts: Annotated[list[str], typer.Argument(metavar="HOST...", help="Every name or address by which its clients call it.")],
    service: Annotated[str, typer.Option(help="Which server; the folder's name.")] = "broker",
    folder: Folder = None,
    days: Days = 825,
) -> None:
    """A server's certificate. Again: a new certificate for the key that it has."""
    typer.echo(f"wrote {_open(folder).server(hosts, service=service, days=days)}: copy it to the server's host")


@ca.command()
def centre(
    name: Annotated[str, typer.Option(help="The centre's user at the broker.")] = "centre", folder: Folder = None, days: Days = 825
) -> None:
    """The centre's certificate, its login at the broker. Again: a new certificate for the key that it has."""
    typer.echo(f"wrote {_open(folder).centre(name=name, days=days)}: copy it to the centre's host")


@ca.command()
def sign(
    request: Annotated[Path, typer.Argument(help="The site's request, as `fdn-worker init --tls` wrote it.")],
    node: Annotated[str, typer.Option("--node", "-n", help="The node that sent it; the request must say the same.")],
    folder: Folder = None,
    days: Days = 825,
) -> None:
    """Sign a site's request. Again, with the same request: a new certificate for the key that the site has."""
    from fdn_worker.errors import SettingsError

    try:
        pem = request.read_bytes()
    except OSError as error:
        raise SettingsError(f"{request}: {error.strerror}", remedy="name the request that the site sent") from error
    place = _open(folder).sign(pem, node, days=days)
    typer.echo(f"wrote {place}: send ca.pem and client.pem back to the site; neither is secret")


@ca.command("list")
def list_(folder: Folder = None, json: Json = False) -> None:
    """All certificates that were issued, and until when they are good."""
    issued = _open(folder).issued()
    if json:
        typer.echo("[" + ",\n ".join(one.model_dump_json() for one in issued) + "]")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "use", "state", "expires", "serial", "hosts", box=None, pad_edge=False)
    for one in issued:
        table.add_row(one.name, one.use, state(one), f"{one.expires:%Y-%m-%d}", one.serial, ", ".join(one.hosts))
    Console(markup=False, highlight=False).print(table if issued else "none yet: see `fem ca server`, `centre` and `sign`")


def state(one: Issued) -> str:
    """In a word or two."""
    from fdn_worker.protocol import now

    days = (one.expires - now()).days
    return "revoked" if one.revoked else "expired" if days < 0 else f"{days} days left" if days < 60 else "good"


@ca.command()
def revoke(which: Annotated[str, typer.Argument(help="A node's id, or a certificate's serial.")], folder: Folder = None) -> None:
    """Revoke a certificate, or all of a name, and write the list of revoked ones. `fem nodes retire` is what drops a site's connection."""
    authority = _open(folder)
    revoked: Sequence[Issued] = authority.revoke(which)
    for one in revoked:
        typer.echo(f"revoked {one.serial} of {one.name}")
    typer.echo(f"wrote {authority.folder / 'crl.pem'}: copy it to whoever checks it")


@ca.command()
def crl(folder: Folder = None, days: Annotated[int, typer.Option(min=1, max=3650, help="Days until the next one is due.")] = 30) -> None:
    """Write the list of revoked certificates anew, before the last one falls due."""
    typer.echo(f"wrote {_open(folder).crl(days=days)}")
