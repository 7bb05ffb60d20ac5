"""The command `fdn-worker`. Imports inside the commands: `--help` must be quick."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from fdn_worker import cli_audit, cli_policy, cli_ui

app = typer.Typer(
    help="The daemon of a federated data node: runs permitted tasks on data that never leaves the site.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip

SettingsPath = Annotated[
    Path, typer.Option("--settings", "-s", envvar="FDN_SETTINGS", help="The node's settings file.", show_default=True)
]  # fmt: skip
DEFAULT = Path("/etc/fdn-worker/fdn-worker.toml")

#: Exit codes beside 0: bad usage or settings, and what is not the user's.
USAGE, INFRASTRUCTURE = 2, 3
#: Seconds that the worker has to act on a drain; it looks each second.
DRAIN_WITHIN = 60.0


def _version(wanted: bool) -> None:
    if wanted:
        from fdn_worker import __version__

        typer.echo(f"fdn-worker {__version__}")
        raise typer.Exit


@app.callback()
def _main(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    pass


@app.command()
def init(
    node: Annotated[str, typer.Argument(help="The site's id: a-z, 0-9 and -.")],
    settings: SettingsPath = DEFAULT,
    broker: Annotated[str, typer.Option(help="The broker's address.")] = "amqps://NODE:PASSWORD@broker.example:5671/",
    state_dir: Annotated[Path, typer.Option(help="Where journal, sandboxes and caches stand.")] = Path("/var/lib/fdn-worker"),
    tls: Annotated[bool, typer.Option("--tls", help="Log in to the broker by a certificate: make its key and the request for it.")] = False,
) -> None:
    """Write a commented settings file and this node's signing key. Replaces neither; a file from the centre's bundle gets its key alone."""
    from fdn_worker import certificates
    from fdn_worker.initialise import initialise
    from fdn_worker.policy.example import write_example
    from fdn_worker.settings import load

    there = settings.exists()
    if tls and not there:
        broker = certificates.broker_address(broker, settings.absolute().parent / "tls")
    key = load(settings).keys.private if tls and there else None
    # A node that has both may still ask for a certificate.
    public = "" if key is not None and key.exists() else initialise(node, settings, broker, state_dir.absolute())
    typer.echo(f"kept {settings}" if there else f"wrote {settings}")
    if example := write_example(settings):
        typer.echo(f"wrote {example}: it allows nothing until you edit it, and is in force once the settings name it")
    if public:
        typer.echo(f"public key of {node}, for the centre to enrol it with:\n{public}")
    if tls:
        request = certificates.request(node, load(settings).broker.url.get_secret_value())
        typer.echo(f"wrote {request}: send it to the centre, and put what comes back, ca.pem and client.pem, beside it")
    typer.echo(f"next: edit it, then `fdn-worker check --settings {settings}`")


@app.command()
def check(settings: SettingsPath = DEFAULT) -> None:
    """Probe all that this node needs. Each finding says what to mend."""
    from fdn_worker.check import findings
    from fdn_worker.settings import load

    sound = True
    for finding in findings(load(settings)):
        sound &= finding.sound
        mark = typer.style("ok", fg="green") if finding.sound else typer.style("no", fg="red")
        typer.echo(f"{mark}  {finding.what}: {finding.says}" + (f"\n    to mend it: {finding.remedy}" if finding.remedy else ""))
    if not sound:
        raise typer.Exit(INFRASTRUCTURE)


@app.command()
def start(
    settings: SettingsPath = DEFAULT,
    log_level: Annotated[str, typer.Option(envvar="FDN_LOG_LEVEL", help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve until SIGTERM or SIGINT. Running tasks then go on, and are taken up by the next start."""
    from fdn_worker.brokers import connect
    from fdn_worker.housekeeping import log_files
    from fdn_worker.settings import load
    from fdn_worker.worker import Worker

    loaded = load(settings)
    handler = log_files(loaded.log_file, loaded.budget.logs) if loaded.log_file else logging.StreamHandler()
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)-7s %(threadName)s %(name)s: %(message)s", handlers=[handler]
    )
    worker = Worker(loaded, connect(loaded.broker.url.get_secret_value(), name=f"fdn-worker {loaded.node}"))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()
    # Threads that follow containers are waiting in system calls; there is nothing left to write down.
    logging.shutdown()
    os._exit(0)


@app.command()
def status(settings: SettingsPath = DEFAULT, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Whether the worker lives, and what it has in hand."""
    from fdn_worker.settings import load
    from fdn_worker.standing import open_journal, standing

    loaded = load(settings)
    facts = standing(loaded, open_journal(loaded))
    if json:
        _json(facts)
    else:
        for name, value in facts.items():
            typer.echo(f"{name.replace('_', ' '):16}{f'{value:,}' if isinstance(value, int) and not isinstance(value, bool) else value}")


@app.command()
def runs(
    settings: SettingsPath = DEFAULT,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """The latest attempts at this node."""
    from fdn_worker.settings import load
    from fdn_worker.standing import attempts, open_journal

    rows = attempts(open_journal(load(settings)), limit)
    ruled = any(row["rule"] is not None for row in rows)
    if json:
        _json(rows)
        return
    from rich.console import Console
    from rich.table import Column, Table

    narrow = [Column(name, no_wrap=True) for name in ("received (UTC)", "run", "attempt", "state", "user", *["rule"] * ruled)]
    table = Table(*narrow, "command", box=None, pad_edge=False)
    for row in rows:
        received, run = str(row["received"])[5:].replace("T", " "), str(row["run"])[:8]
        rule, words = [row["rule"] or ""] * ruled, " ".join(row["argv"])[: 48 if ruled else 60]
        table.add_row(received, run, str(row["attempt"]), row["state"], row["user"], *rule, words)
    Console(markup=False, highlight=False).print(table if rows else "no runs yet")


@app.command()
def drain(
    settings: SettingsPath = DEFAULT,
    undo: Annotated[bool, typer.Option("--undo", help="Take orders again.")] = False,
    leave: Annotated[bool, typer.Option("--exit", help="Have the worker end once it is empty; its next start takes orders again.")] = False,
) -> None:
    """Take no more orders, and finish what is here. Orders wait at the broker meanwhile."""
    import time

    from fdn_worker.errors import SystemFault
    from fdn_worker.intake import DRAIN, in_force
    from fdn_worker.protocol.chain import login
    from fdn_worker.settings import load
    from fdn_worker.standing import alive, open_journal

    loaded = load(settings)
    journal = open_journal(loaded)
    journal.audit("drain" if not undo else "drain-ended", by=login(), leave=leave)
    journal.set_flag(DRAIN, None if undo else "exit" if leave else "stay")
    end = time.monotonic() + DRAIN_WITHIN
    if not in_force(journal, lambda: alive(loaded) and time.monotonic() < end) and alive(loaded):
        raise SystemFault(f"the worker has not taken that up within {DRAIN_WITHIN:.0f} s", remedy="it will once it can; look at its log")
    typer.echo("orders are taken again" if undo else f"draining; {len(journal.unfinished())} attempts to finish")


@app.command()
def release(
    run: Annotated[str, typer.Argument(help="The beginning of a run's id; none: list what waits.", show_default=False)] = "",
    settings: SettingsPath = DEFAULT,
    file: Annotated[list[str] | None, typer.Option("--file", "-f", help="Let this go alone; a pattern, may be given again.")] = None,
    deny: Annotated[bool, typer.Option("--deny", help="Nothing leaves.")] = False,
    why: Annotated[str, typer.Option(help="The reason, which the researcher is told.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Let all that waits go, without asking.")] = False,
    by: Annotated[str, typer.Option(help="Who decides, if it is not your login.")] = "",
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """What waits for a person's word, and the word: show a run's files, then let them go or deny them."""
    from fdn_worker.cli_release import choose, facts, list_waiting, show
    from fdn_worker.release import desk
    from fdn_worker.settings import load
    from fdn_worker.standing import alive, open_journal

    loaded = load(settings)
    journal = open_journal(loaded)
    waiting = desk.waiting(journal, loaded)
    if not run:
        if json:
            _json([facts(one) for one in waiting])
        else:
            list_waiting(waiting)
        return
    if deny + yes + bool(file) > 1:
        raise typer.BadParameter("--deny, --yes and --file are three different words")
    one = desk.find(waiting, run)
    if json:
        _json(facts(one))
    else:
        show(one)
    chosen = [] if deny else one.undecided if yes else desk.matching(one, file) if file else [] if json else choose(one)
    if not chosen and not deny:
        return
    desk.decide(journal, one, chosen, by or desk.login(), why)
    if not json:
        said = f"{len(chosen)} of {len(one.undecided)} files may leave" if chosen else "nothing leaves"
        typer.echo(said if alive(loaded) else f"{said}, once the worker is started")


cli_audit.add_to(app)
cli_policy.add_to(app)
cli_ui.add_to(app)


def _json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2))


def main() -> None:
    """The entry point: what goes wrong is told in one line."""
    from fdn_worker.errors import FdnError, SettingsError

    try:
        app()
    except FdnError as error:
        typer.echo(f"fdn-worker: {error}", err=True)
        sys.exit(USAGE if isinstance(error, SettingsError) or error.code in ("bad-name", "not-waiting") else INFRASTRUCTURE)


if __name__ == "__main__":
    main()
