"""`fem users` and `fem tokens`: who may sign in at the gateway, and the tokens of programs."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage.gateway import GatewayRecords

users = typer.Typer(help="Who may sign in at the gateway by a password.", add_completion=False, no_args_is_help=True)
tokens = typer.Typer(help="Tokens by which programs ask the gateway.", add_completion=False, no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The user.", metavar="NAME")]
Role = Annotated[str, typer.Option("--role", "-r", help="researcher, operator, auditor or administrator.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Generate = Annotated[bool, typer.Option("--generate", help="Make a password up, and print it.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(users, name="users")
    app.add_typer(tokens, name="tokens")


def _records() -> GatewayRecords:
    from flows import connection

    return connection.centre().records.gateway


def _password(generate: bool) -> str:
    """Asked for, read from a pipe, or made up and shown."""
    from federation.gateway.passwords import made_up

    if generate:
        password = made_up()
        typer.echo(f"password: {password}")
        return password
    if sys.stdin.isatty():
        return str(typer.prompt("password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\n")


@users.command()
def add(
    name: Name,
    role: Role = "researcher",
    project: Annotated[list[str] | None, typer.Option("--project", "-p", help="A project to share in; again for more.")] = None,
    generate: Generate = False,
) -> None:
    """Let somebody sign in. The password is asked for, or read from standard input."""
    from federation.gateway.users import add_user

    add_user(_records(), name, role, _password(generate), project or (), by=getpass.getuser())


@users.command("list")
def list_users(json: Json = False) -> None:
    """All users, with their roles and projects."""
    from rich.console import Console

    from flows.cli_records import print_json
    from flows.listing import listing

    rows = _records().users()
    if json:
        print_json([
            {"name": row.name, "role": row.role, "projects": sorted(row.projects), "created": row.created, "disabled": row.disabled}
            for row in rows
        ])  # fmt: skip
        return
    shown = [
        (row.name, row.role, ", ".join(sorted(row.projects)), f"{row.created:%Y-%m-%d}", f"{row.disabled:%Y-%m-%d}" if row.disabled else "")
        for row in rows
    ]
    Console(markup=False, highlight=False).print(listing(("user", "role", "projects", "since", "disabled"), shown))


@users.command()
def password(name: Name, generate: Generate = False) -> None:
    """Give a user another password; all that the old one signed in ends."""
    from federation.gateway.passwords import hashed

    _records().set_user(name, password=hashed(_password(generate)), by=getpass.getuser())


@users.command()
def role(name: Name, role: Annotated[str, typer.Argument(help="researcher, operator, auditor or administrator.", metavar="ROLE")]) -> None:
    """Give a user another role, from his next request on."""
    from federation.gateway.users import checked_role

    _records().set_user(name, role=checked_role(role), by=getpass.getuser())


@users.command()
def projects(
    name: Name, project: Annotated[list[str] | None, typer.Argument(help="All of them; none: no project.", metavar="PROJECT")] = None
) -> None:
    """Say whose projects' executions a user shares in."""
    from federation.gateway.users import checked_projects

    _records().set_user(name, projects=checked_projects(project or ()), by=getpass.getuser())


@users.command()
def disable(name: Name, undo: Annotated[bool, typer.Option("--undo", help="Let him in again.")] = False) -> None:
    """Shut a user out; his tokens end."""
    _records().set_user(name, disabled=not undo, by=getpass.getuser())


@tokens.command()
def create(
    name: Name,
    label: Annotated[str, typer.Argument(help="What it is for.", metavar="LABEL")],
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="Days that it lasts; until it is revoked, if left out.")] = None,
) -> None:
    """Make a token for a user's program. It is printed this once."""
    from federation.gateway.users import api_token

    typer.echo(api_token(_records(), name, label, days, by=getpass.getuser()))


@tokens.command("list")
def list_tokens(name: Name, json: Json = False) -> None:
    """A user's tokens by their labels."""
    from rich.console import Console

    from flows.cli_records import print_json
    from flows.listing import listing

    rows = _records().tokens_of(name, "api")
    if json:
        print_json([{"label": row.label, "created": row.created, "expires": row.expires} for row in rows])
        return
    shown = [(row.label, f"{row.created:%Y-%m-%d}", f"{row.expires:%Y-%m-%d}" if row.expires else "never") for row in rows]
    Console(markup=False, highlight=False).print(listing(("token", "since", "expires"), shown))


@tokens.command()
def revoke(name: Name, label: Annotated[str, typer.Argument(help="Its label.", metavar="LABEL")]) -> None:
    """End a token at once."""
    _records().revoke_label(name, "api", label, by=getpass.getuser())
