"""`fem audit`: the centre's own log, and those that its sites hand over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

audit = typer.Typer(help="The log of submissions, cancels, enrolments, keys and tools; chained, so that no entry can go or change.",
                    add_completion=False, no_args_is_help=True)  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(audit, name="audit")


@audit.command()
def verify(
    files: Annotated[list[Path] | None, typer.Argument(help="A log that was exported; none: the centre's own.")] = None,
    node: Annotated[str, typer.Option("--node", "-n", help="Whose log the files are; held against what the centre heard of it.")] = "",
    head: Annotated[list[str] | None, typer.Option("--head", help="NUMBER:HASH that was noted before; may be given again.")] = None,
    json: Json = False,
) -> None:
    """Check that each entry follows the one before, that its owner's key vouches for all, and that none is missing."""
    from fdn_worker.audit_text import begins, lines_of, tell
    from fdn_worker.protocol.chain import Head, check
    from federation.heads import known_heads
    from flows import connection

    if node and not files:
        raise typer.BadParameter(f"the log of {node} is at its site: have it export one, `fdn-worker audit export FILE`, and name the file")
    centre = connection.centre()
    heads = [("you", Head.parse(text)) for text in head or ()]
    if node:
        ring = centre.records.keys.ring()
        keys = {name: key for name, key in ring.keys.items() if name.startswith(f"{node}.") and name not in ring.revoked}
        heads += known_heads(centre.records, node)
    else:
        keys = dict(centre.own_keys().keys)
        heads += [] if files else [("the table audit_head", centre.records.audit.head())]
    lines = lines_of(files) if files else centre.records.audit.lines()
    tell(check(lines, keys, from_begin=not files or begins(files), heads=heads), json=json, signed=bool(keys))


@audit.command()
def show(
    limit: Annotated[int, typer.Option("--limit", help="How many, the newest.", min=1)] = 20,
    execution: Annotated[str, typer.Option(help="Of executions whose id begins so.")] = "",
    kind: Annotated[str, typer.Option(help="Of this kind: submitted, cancelled, enrolled, ...")] = "",
    json: Json = False,
) -> None:
    """The latest entries."""
    from fdn_worker.audit_text import shown
    from flows import connection

    shown(connection.centre().records.audit.lines(), limit, of=execution, kind=kind, json=json)


@audit.command()
def export(
    file: Annotated[Path | None, typer.Argument(help="Where to; none: standard output.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only what comes after this number.")] = 0,
) -> None:
    """The lines as they stand, for whoever is to check them elsewhere."""
    from fdn_worker.audit_text import exported
    from flows import connection

    exported(connection.centre().records.audit.lines(after), file, after)
