"""`fdn-worker audit` and `fdn-worker keys`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

audit = typer.Typer(help="The log of what this node was asked, decided and did; chained, so that no line can go or change.",
                    add_completion=False, no_args_is_help=True)  # fmt: skip

SettingsPath = Annotated[Path, typer.Option("--settings", "-s", envvar="FDN_SETTINGS", help="The node's settings file.", show_default=True)]
DEFAULT = Path("/etc/fdn-worker/fdn-worker.toml")
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(audit, name="audit")
    app.command()(keys)


@audit.command()
def verify(
    files: Annotated[list[Path] | None, typer.Argument(help="Parts of a log that were exported, in order; none: this node's own.")] = None,
    settings: SettingsPath = DEFAULT,
    head: Annotated[list[str] | None, typer.Option("--head", help="NUMBER:HASH that was noted before; may be given again.")] = None,
    json: Json = False,
) -> None:
    """Check that each entry follows the one before, that the node's key vouches for all, and that none is missing."""
    from fdn_worker.audit import known_head, own_files, own_signer
    from fdn_worker.audit_text import begins, lines_of, tell
    from fdn_worker.protocol.chain import Head, check
    from fdn_worker.settings import load
    from fdn_worker.standing import open_journal

    loaded = load(settings)
    heads = [("you", Head.parse(text)) for text in head or ()]
    paths = files or own_files(loaded)
    if not files:
        heads += known_head(open_journal(loaded))
    of = own_signer(loaded)
    checked = check(lines_of(paths), {of.key_id: of.public_key()} if of else {}, from_begin=not files or begins(paths), heads=heads)
    tell(checked, json=json, signed=of is not None)


@audit.command()
def show(
    settings: SettingsPath = DEFAULT,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, the newest.")] = 20,
    run: Annotated[str, typer.Option(help="Of runs whose id begins so.")] = "",
    kind: Annotated[str, typer.Option(help="Of this kind: received, accepted, refused, started, ended, ...")] = "",
    json: Json = False,
) -> None:
    """The latest entries."""
    from fdn_worker.audit import own_files
    from fdn_worker.audit_text import lines_of, shown
    from fdn_worker.settings import load

    shown(lines_of(own_files(load(settings))), limit, of=run, kind=kind, json=json)


@audit.command()
def export(
    file: Annotated[Path | None, typer.Argument(help="Where to; none: standard output.")] = None,
    settings: SettingsPath = DEFAULT,
    after: Annotated[int, typer.Option(min=0, help="Only what comes after this number.")] = 0,
) -> None:
    """The lines as they stand, for whoever is to check them elsewhere."""
    from fdn_worker.audit import own_files
    from fdn_worker.audit_text import exported, lines_of
    from fdn_worker.settings import load

    exported(lines_of(own_files(load(settings))), file, after)


def keys(
    settings: SettingsPath = DEFAULT,
    new: Annotated[bool, typer.Option("--new", help="Make a further key, to change to.")] = False,
) -> None:  # fmt: skip
    """The names of the keys by which this node signs, and which it trusts; or a new key of its own."""
    from fdn_worker.errors import SettingsError
    from fdn_worker.protocol import Signer
    from fdn_worker.protocol.envelope import make_key
    from fdn_worker.settings import load

    loaded = load(settings)
    private = loaded.keys.private
    if private is None:
        raise SettingsError("an embedded federation works unsigned, and has no keys", remedy="set keys.private for one")
    if new:
        number = 2
        while (path := private.with_name(f"{loaded.node}-{number}.key")).exists():
            number += 1
        make_key(path)
        made = Signer.of_node(loaded.node, path)
        typer.echo(f"wrote {path}, key {made.key_id}\n1. have the centre take it beside the old one: fem nodes add-key {loaded.node} {made.public_key()}\n"
                   f"2. set keys.private = \"{path}\" in {settings}, and restart the worker\n"
                   f"3. have the centre revoke the old one: fem nodes revoke-key {loaded.node} {Signer.of_node(loaded.node, private).key_id}")  # fmt: skip
        return
    own = Signer.of_node(loaded.node, private)
    typer.echo(f"signs as  {own.key_id}  {own.public_key()}")
    for key_id, public in loaded.keys.trusted.items():
        typer.echo(
            f"trusts    {key_id}  {public}" if key_id not in loaded.keys.revoked else f"revoked   {key_id}  {loaded.keys.revoked[key_id]}"
        )
