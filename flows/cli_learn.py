"""`fem learn` and `fem sessions`: federated learning over the nodes, begun, watched and steered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import cli_sessions_page
from flows.cli_records import Json
from flows.cli_tool_run import User

if TYPE_CHECKING:
    from federation.learning.session import SessionConfiguration
    from storage.learning import Learning, SessionRow

Session = Annotated[str, typer.Argument(help="Its id, or as much of it as is unique.")]
Key = Annotated[str | None, typer.Option("--key", help="Idempotency key: a second session with it is the first one.")]
sessions = typer.Typer(help="Sessions of federated learning.", no_args_is_help=True, add_completion=False)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(learn)
    cli_sessions_page.add_to(sessions)
    app.add_typer(sessions, name="sessions")


def learn(
    file: Annotated[Path, typer.Argument(help="The session's file.", metavar="FILE")],
    user: User = None,
    key: Key = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what is wrong with the file and its package.")] = False,
    json: Json = False,
) -> None:
    """Run a session of federated learning to its end. Ctrl-C stops it, and ends at the nodes what it has there.

    Example: fem learn examples/learning/digits.yaml
    """
    import getpass
    from uuid import uuid4

    from federation.learning import opening
    from federation.learning.session import load_session

    asked = load_session(file)
    if check:
        opening.check(asked)
        typer.echo(f"{file}: sound")
        return
    asked = asked.model_copy(update={"user": user if user is not None else asked.user or getpass.getuser()})

    def begin(here: SessionConfiguration) -> SessionRow:
        from flows import connection

        return opening.begin(connection.centre(), here, key or str(uuid4()))

    _run(asked, begin, json=json)


@sessions.command("list")
def list_sessions(
    state: Annotated[str | None, typer.Option("--state", help="CREATED, RUNNING, PAUSED, FINISHED, STOPPED or FAILED.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="Of this user alone.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many, the newest.")] = 20,
    json: Json = False,
) -> None:
    """The sessions, the newest first."""
    from rich.console import Console

    from flows import connection
    from flows.cli_records import print_json
    from flows.cli_watching import ROOMY
    from flows.listing import listing

    rows = connection.centre().records.learning.sessions(_state(state), user, limit)
    if json:
        print_json([_as_json(row) for row in rows])
        return
    console = Console(markup=False, highlight=False)
    characters = 36 if console.width >= ROOMY else 13
    table = listing(
        ("session", "state", "round", "created (UTC)", "user", "name", "why"),
        [(row.id[:characters], row.state, str(row.round), f"{row.created:%m-%d %H:%M:%S}", row.user, row.name, row.reason) for row in rows],
        wrap=("name", "why"), right=("round",),
    )  # fmt: skip
    console.print(table if rows else "no sessions yet")


@sessions.command()
def show(session: Session, json: Json = False) -> None:
    """A session: its rounds, and what became of each client's update."""
    from dataclasses import asdict

    from rich.console import Console

    from flows import connection
    from flows.cli_records import print_json
    from flows.learning_view import table
    from flows.listing import listing

    learning = connection.centre().records.learning
    row = learning.find_session(session)
    updates = learning.updates(row.id)
    if json:
        rounds = [asdict(one) for one in learning.rounds(row.id)]
        print_json(_as_json(row) | {"rounds": rounds, "updates": [asdict(one) for one in updates]})
        return
    console = Console(markup=False, highlight=False)
    console.print(table(learning, row, console.width))
    last = [one for one in updates if one.round == row.round]
    if last:
        console.print(f"\nround {row.round}:")
        cells = [(one.client, one.outcome or "", f"{one.examples:,.0f}" if one.examples else "", one.reason) for one in last]
        console.print(listing(("client", "update", "examples", "why"), cells, wrap=("why",), right=("examples",)))


@sessions.command()
def watch(session: Session) -> None:
    """Show a session's rounds as they come, until it is over or pauses."""
    import threading

    from rich.console import Console

    from flows import connection
    from flows.learning_view import show as view
    from flows.learning_view import title

    learning = connection.centre().records.learning
    console = Console(markup=False, highlight=False)
    row = learning.find_session(session)
    view(learning, row.id, console, threading.Event())
    console.print(title(learning.find_session(row.id)))


@sessions.command()
def pause(session: Session) -> None:
    """Have a session pause once the round that is under way is over."""
    learning, row = _find(session)
    learning.want(row.id, "pause", by=_person())
    typer.echo(f"session {row.id} pauses after this round; `fem sessions continue {row.id[:8]}` goes on")


@sessions.command("continue")
def go_on(
    session: Session,
    model: Annotated[
        str | None, typer.Option("--model", help="Begin a new session from this model: the id of any, of whatever session.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Of the new session: how many; else as many as this one was to have.")
    ] = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Go on with a session that pauses, or whose process was killed: at the round where it was.

    One that is over, or with --model, is continued by a new session, which is asked for the same, and begins with the latest model or the one named.
    """
    from uuid import uuid4

    from federation.learning import opening
    from flows import connection
    from storage.learning import ENDED

    learning, row = _find(session)
    new = model is not None or row.state in ENDED

    def begin(here: SessionConfiguration) -> SessionRow:  # noqa: ARG001 (what stands is gone on with as it stands)
        if not new:
            return learning.want(row.id, "run", by=_person())
        chosen = learning.find_model(model).id if model else opening.latest_model(learning, row).id
        return opening.begin_again(connection.centre(), row, key or str(uuid4()), chosen, rounds=rounds)

    _run(opening.stored(row), begin, json=json)


@sessions.command()
def stop(session: Session) -> None:
    """Stop a session now, and end at the nodes what it has there. Its models stay."""
    from federation.learning import running
    from flows import connection

    learning, row = _find(session)
    learning.want(row.id, "stop", by=_person())
    running.stop(connection.centre(), row.id, f"stopped by {_person()}")
    typer.echo(f"session {row.id} is stopped")


def _run(asked: SessionConfiguration, begin: Callable[[SessionConfiguration], SessionRow], *, json: bool) -> None:
    """Begin a session, or go on with one, and run it in this process."""
    import os

    from fdn_worker.errors import FdnError
    from flows import connection, exit_codes
    from flows.cli_tool_run import quiet_prefect

    quiet_prefect(os.environ)
    from rich.console import Console

    from flows.learning_run import nodes_of, run_session

    console = Console(stderr=True, quiet=json, markup=False, highlight=False)
    with nodes_of(asked) as here:
        row = begin(here)
        console.print(f"session {row.id}")
        try:
            result = run_session(row, console)
        except FdnError as error:
            if connection.centre().records.learning.find_session(row.id).state != "FAILED":
                raise
            typer.echo(f"fem: {error}", err=True)
            raise typer.Exit(exit_codes.FAILED) from error
    if json:
        typer.echo(result.model_dump_json(indent=2))
    else:
        typer.echo(result.explain())
        if result.model:
            typer.echo(f"model {result.model}: `fem models show {result.model[:8]}`")
    raise typer.Exit(exit_codes.SUCCEEDED if result.state in ("FINISHED", "PAUSED") else exit_codes.FAILED)


def _find(session: str) -> tuple[Learning, SessionRow]:
    from flows import connection

    learning = connection.centre().records.learning
    return learning, learning.find_session(session)


def _person() -> str:
    import getpass

    return getpass.getuser()


def _state(word: str | None) -> Any:
    from typing import get_args

    from storage.learning import SessionState

    if word is not None and word.upper() not in get_args(SessionState):
        raise typer.BadParameter(f"{word} is none of {', '.join(get_args(SessionState))}")
    return word.upper() if word else None


def _as_json(row: SessionRow) -> dict[str, Any]:
    import json
    from dataclasses import asdict

    return asdict(row) | {"configuration": json.loads(row.configuration)}
