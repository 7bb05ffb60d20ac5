"""`fdn-worker policy`: what the site's policy says of an order, and what is doubtful in it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fdn_worker.journal import Journal
    from fdn_worker.policy import PolicyFile
    from fdn_worker.protocol import TaskOrder
    from fdn_worker.settings import WorkerSettings

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
    from fdn_worker import launchers
    from fdn_worker.policy import Runs, bounds, by_policy
    from fdn_worker.policy.judge import explain
    from fdn_worker.protocol import now
    from fdn_worker.settings import load

    loaded, moment = load(settings), at.replace(tzinfo=UTC) if at else now()
    file, journal = _file(loaded, policy), _journal(loaded)
    asked = _order(order, loaded, journal, moment)

    def runs(rule: str) -> Runs:
        return Runs(*journal.let_in(rule)) if journal else Runs()

    current = file.current()
    decision = by_policy(asked, loaded, moment, file, runs)
    name = asked.launcher or loaded.launcher
    beside = list(bounds.refusals(asked, loaded, moment))
    if name in loaded.allowed_launchers:
        launcher = launchers.load(name, loaded.launchers.get(name, {}), loaded.state_dir / name)
        beside += launchers.refusals(launcher, asked, decision.keep_to)
    refused = [*decision.refusals, *beside]
    readings = explain(current, asked, loaded.launcher, moment, runs)
    facts: dict[str, Any] = {
        "accepted": not refused, "rule": decision.rule, "policy": current.digest, "refusals": [{"code": r.code, "message": str(r)} for r in refused],
        "rules": [{"id": r.rule.id, "effect": r.rule.effect, "reasons": list(r.reasons)} for r in readings],
    }  # fmt: skip
    if journal is not None:
        journal.close()
    _show(facts, json)
    for reading in () if json else readings:
        rule, fits = reading.rule, "decides" if reading.rule.id == decision.rule else "would, but another one comes first"
        short = "does not apply" if rule.effect == "deny" else "falls short"
        typer.echo(f"  {rule.effect} {rule.id}: {f'{short}: ' + ', '.join(reading.reasons) if reading.reasons else fits}")
    if refused:
        raise typer.Exit(NO)


@policy.command()
def lint(settings: SettingsPath = DEFAULT, policy: Other = None, json: Json = False) -> None:
    """Warn of rules that never match, allow everything, or grant what this node does not have. Exit code 1: there are such."""
    from fdn_worker.policy import lint as linting
    from fdn_worker.protocol import now
    from fdn_worker.settings import load

    loaded = load(settings)
    file = _file(loaded, policy)
    doubts = list(linting.lint(file.current(), loaded, now()))
    if json:
        _print_json(doubts)
    else:
        for doubt in doubts:
            typer.echo(doubt)
        typer.echo(f"{file.path}: {len(file.current().rule)} rules, {len(doubts)} doubts")
    if doubts:
        raise typer.Exit(NO)


def _show(facts: dict[str, Any], json: bool) -> None:
    if json:
        _print_json(facts)
        return
    by = f" by rule {facts['rule']}" if facts["rule"] else ""
    typer.echo(f"{'accepted' if facts['accepted'] else 'refused'}{by}")
    for refusal in facts["refusals"]:
        typer.echo(f"  {refusal['code']}: {refusal['message']}")


def _file(settings: WorkerSettings, other: Path | None) -> PolicyFile:
    from fdn_worker.errors import SettingsError
    from fdn_worker.policy import PolicyFile

    path = other or settings.policy
    if path is None:
        raise SettingsError("these settings name no policy", remedy="set `policy` in them, or name a file with --policy")
    return PolicyFile(path)


def _journal(settings: WorkerSettings) -> Journal | None:
    from fdn_worker.journal import Journal
    from fdn_worker.protocol import Signer

    path = settings.state_dir / "journal.db"
    return Journal(path, Signer()) if path.exists() else None


def _order(named: str, settings: WorkerSettings, journal: Journal | None, moment: datetime) -> TaskOrder:
    """The order in the file of that name, or of the run."""
    from fdn_worker.errors import SettingsError
    from fdn_worker.policy.written import read_order

    if Path(named).exists() or os.sep in named or journal is None:
        return read_order(Path(named), settings.node, moment)
    found = [entry.order for entry in journal.recent(-1) if str(entry.run).startswith(named) and entry.order is not None]
    if len({order.run for order in found}) != 1:
        raise SettingsError(
            f"{named!r} is no file, and {'the beginning of several runs' if found else 'no run that was here'}",
            remedy="see `fdn-worker runs`, or write the order into a file",
        )
    return found[0]


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2))
