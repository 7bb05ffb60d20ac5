"""`fem sessions page`: a session to look at, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

#: Seconds between two looks at the session's row: an end of a round is shown at once, what clients log meanwhile when the page loads itself again.
LOOK = 1.0


def add_to(sessions: typer.Typer) -> None:
    """Add the command to the group."""
    sessions.command()(page)


def page(
    session: Annotated[str, typer.Argument(help="Its id, or as much of it as is unique.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file; session-ID.html, if left out.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on writing it until the session ends; an open page follows.")] = False,
) -> None:
    """Write a session's metrics and timeline as one HTML page, which opens without a network."""
    import time

    from fdn_worker.protocol import now
    from federation.learning import dashboard
    from flows import connection, learning_page

    learning = connection.centre().records.learning
    row = learning.find_session(session)
    path = out or Path(f"session-{row.id[:8]}.html")
    while True:
        seen = dashboard.read(learning, row)
        live = watch and seen.live
        learning_page.write(path, learning_page.page(seen, now(), live=live))
        typer.echo(f"wrote {path}: {row.state}, round {row.round}", err=True)
        if not live:
            return
        due, before = time.monotonic() + learning_page.EVERY, row
        while time.monotonic() < due and (row.state, row.round) == (before.state, before.round):
            time.sleep(LOOK)
            row = learning.find_session(row.id)
