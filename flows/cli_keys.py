"""`fem keys`, and the keys of nodes: `fem nodes keys`, `add-key`, `revoke-key`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Node = Annotated[str, typer.Argument(help="The node's id.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(keys)
    app.command("sign-image")(sign_image)


def keys(
    path: Annotated[Path | None, typer.Argument(help="The private key's file; without it, in the home folder.")] = None,
    rotate: Annotated[bool, typer.Option("--rotate", help="A further key, to change to without a gap.")] = False,
) -> None:
    """Make the centre's signing key. Prints the public one, for the nodes' settings; replaces none."""
    from fdn_worker.errors import SettingsError
    from fdn_worker.protocol import Signer
    from fdn_worker.protocol.envelope import make_key
    from federation.settings import default_home, load

    key_id, last = "centre", None
    if rotate:
        settings = load()
        if settings.key is None:
            raise SettingsError("there is no key to change from", remedy="make the first one: `fem keys`")
        last = Signer.load(settings.key_id, settings.key)
        key_id = _following({last.key_id, *settings.former_keys}, last.key_id)
    private = (path or default_home() / f"{key_id}.key").absolute()
    make_key(private)
    public = Signer.load(key_id, private).public_key()
    if last is None:
        typer.echo(f"wrote {private}; set key = {str(private)!r} in fem.toml (FEM_KEY)\nfor each node's [keys.trusted]:\n"
                   f'{key_id} = "{public}"')  # fmt: skip
        return
    typer.echo(
        f'wrote {private}\n1. at each site, a line more in [keys.trusted], and a restart; `fem nodes show` says whom a node trusts:\n{key_id} = "{public}"\n'
        f'2. in fem.toml, then restart what runs there:\nkey = "{private}"\nkey_id = "{key_id}"\n[former_keys]\n{last.key_id} = "{last.public_key()}"\n'
        f'3. once no order waits that the old key signed, at each site:\n[keys.revoked]\n{last.key_id} = "replaced by {key_id}"'
    )  # fmt: skip


def sign_image(
    digest: Annotated[str, typer.Argument(help="sha256:..., the image's digest.")],
    key: Annotated[Path, typer.Option(help="The author's private key; made if it is not there yet.")],
) -> None:
    """Vouch for an image, as its author: prints the signature for the tool, and the public key for the sites that ask for it."""
    import re

    from fdn_worker.protocol import Signer
    from fdn_worker.protocol.envelope import make_key
    from fdn_worker.protocol.image import signed_part
    from fdn_worker.protocol.order import DIGEST_PATTERN

    if not re.fullmatch(DIGEST_PATTERN, digest):
        raise typer.BadParameter(f"{digest!r} must be sha256: and 64 hexadecimal digits; `docker image ls --digests` shows it")
    if not key.exists():
        make_key(key)
        typer.echo(f"made {key}: keep it to yourself", err=True)
    signer = Signer.load(key.stem, key)
    typer.echo(f"in the tool, beside the image's digest:\nsignature: {signer.sign(signed_part(digest))}\n"
               f'in the policy of a site that trusts you:\n[signers]\n{key.stem} = "{signer.public_key()}"')  # fmt: skip


def _following(taken: set[str], last: str) -> str:
    """centre -> centre-2 -> centre-3."""
    stem, dash, number = last.rpartition("-")
    base, count = (stem, int(number)) if dash and number.isdecimal() else (last, 1)
    while (name := f"{base}-{count + 1}") in taken:
        count += 1
    return name


def of_node(node: Node) -> None:
    """The keys by which a node signs, and signed."""
    from flows import connection

    for row in connection.centre().records.keys.of(node):
        state = f"revoked {row.revoked:%Y-%m-%d %H:%M} UTC: {row.why}" if row.revoked else "good"
        typer.echo(f"{row.key_id}  {row.public_key}  since {row.added:%Y-%m-%d}, {state}")


def add(
    node: Node,
    key: Annotated[str, typer.Argument(help="The public key, as `fdn-worker keys --new` printed it.")],
) -> None:  # fmt: skip
    """Take the word of a further key of a node; the one that it has stays good until it is revoked."""
    from fdn_worker.protocol.envelope import is_public_key
    from flows import connection

    if not is_public_key(key):
        raise typer.BadParameter(f"{key!r} is no public key; copy the line that `fdn-worker keys --new` printed")
    row = connection.centre().records.keys.add(node, key)
    typer.echo(f"{node} may sign with {row.key_id} from now on")


def revoke(
    node: Node,
    key_id: Annotated[str, typer.Argument(help="The key's name, as `fem nodes keys` shows it.")],
    why: Annotated[str, typer.Option(help="The reason, which stands in the log.")] = "replaced",
) -> None:
    """Take no more what a node signs with this key. There is no way back: the site makes another one."""
    from flows import connection

    row = connection.centre().records.keys.revoke(node, key_id, why)
    typer.echo(f"{row.key_id} is revoked; a relay that runs refuses it within half a minute")
