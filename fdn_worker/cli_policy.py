"""`fdn-worker policy`: what the site's policy says of an order, and what is doubtful in it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

SettingsPath = Annotated[Path, typer.Option("--settings", "-s", envvar="FDN_SETTINGS", help="The node's settings file.")]
DEFAULT = Path("/etc/fdn-worker/fdn-worker.toml")
Other = Annotated[Path | None, typer.Option("--policy", "-p", help="Another policy file than that of the settings.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
#: The answer is no.
NO = 1

policy = typer.Typer(help="What the site's policy says of an order, and what is doubtful in it.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(policy, name="policy")


@policy.command("test")
def judge(
    order: Annotated[str, typer.Argument(help="A TOML or JSON file, or the beginning of the id of a run that was here.")],
    settings: SettingsPath = DEFAULT,
    policy: Other = None,
    at: Annotated[datetime | None, typer.Option(help="Judge it as of this moment (UTC), and not now.")] = None,
    json: Json = False,
) -> None:
    """Explain what this node would say of an order: which rule decides, and why no other one does. Exit code 1: refused."""
    from fdn_worker import trial as trials
    from fdn_worker.protocol import now
    from fdn_worker.settings import load

    loaded, moment = load(settings), at.replace(tzinfo=UTC) if at else now()
    file, journal = trials.policy_file(loaded, policy), trials.journal_if_there(loaded)
    trial = trials.trial(trials.named(order, loaded, journal, moment), loaded, file, journal, moment)
    if journal is not None:
        journal.close()
    if json:
        _print_json(trial.facts())
    else:
        typer.echo(trial.said())
        for refusal in trial.refused:
            typer.echo(f"  {refusal.code}: {refusal}")
        for reading in trial.readings:
            typer.echo(f"  {reading.rule.effect} {reading.rule.id}: {trial.of_rule(reading)}")
    if trial.refused:
        raise typer.Exit(NO)


@policy.command()
def lint(settings: SettingsPath = DEFAULT, policy: Other = None, json: Json = False) -> None:
    """Warn of rules that never match, allow everything, or grant what this node does not have. Exit code 1: there are such."""
    from fdn_worker.policy import lint as linting
    from fdn_worker.protocol import now
    from fdn_worker.settings import load
    from fdn_worker.trial import policy_file

    loaded = load(settings)
    file = policy_file(loaded, policy)
    doubts = list(linting.lint(file.current(), loaded, now()))
    if json:
        _print_json(doubts)
    else:
        for doubt in doubts:
            typer.echo(doubt)
        typer.echo(f"{file.path}: {len(file.current().rule)} rules, {len(doubts)} doubts")
    if doubts:
        raise typer.Exit(NO)


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2))
