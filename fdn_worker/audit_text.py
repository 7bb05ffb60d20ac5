"""What `fdn-worker audit` and `fem audit` read and print alike."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import typer

from fdn_worker.errors import MessageError, SettingsError
from fdn_worker.protocol.chain import Checked, Line, read

#: Exit code of a log that is not whole.
BROKEN = 3


def lines_of(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """All lines of files, each with its place."""
    for path in paths:
        try:
            with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
                for number, line in enumerate(file, 1):
                    yield f"{path.name}:{number}", line.removesuffix("\n")
        except OSError as error:
            raise SettingsError(
                f"audit log {path}: {error.strerror}", remedy="name a file that is there, and run it as its owner"
            ) from error


def begins(paths: Sequence[Path]) -> bool:
    """Whether these files begin with a log's first entry."""
    return next(lines_of(paths), ("", ""))[1].startswith('{"number":1,')


def tell(checked: Checked, *, json: bool, signed: bool) -> None:
    """What a check found; exit code 3 if anything."""
    if json:
        from json import dumps

        facts = {"head": str(checked.head), "entries": checked.lines, "signed": checked.signed, "findings": checked.findings}
        typer.echo(dumps(facts, indent=2))
    else:
        for finding in checked.findings:
            typer.echo(typer.style("no", fg="red") + f"  {finding}")
        if not checked.findings:
            vouched = "" if signed else ", not signed: an embedded federation has no keys"
            typer.echo(typer.style("ok", fg="green") + f"  {checked.lines:,} entries, whole{vouched}")
        typer.echo(f"head {checked.head}")
    if checked.findings:
        raise typer.Exit(BROKEN)


def latest(lines: Iterable[tuple[str, str]], limit: int, *, of: str = "", kind: str = "") -> tuple[list[tuple[Line, str]], list[str]]:
    """The last `limit` of the lines that are wanted, of a run or execution whose id begins so, of a kind; and what cannot be read."""
    found: deque[tuple[Line, str]] = deque(maxlen=limit)
    unreadable = []
    for place, text in lines:
        # What cannot be wanted is not even read.
        if of not in text or kind not in text:
            continue
        try:
            line = read(text)
        except MessageError as error:
            unreadable.append(f"{place}: {error.message}: see `audit verify`")
            continue
        ids = [str(line.what.get(name, "")) for name in ("run", "execution")]
        if kind in ("", line.kind) and any(id_.startswith(of) for id_ in ids):
            found.append((line, text))
    return list(found), unreadable


def shown(lines: Iterable[tuple[str, str]], limit: int, *, of: str = "", kind: str = "", json: bool = False) -> None:
    """Print the last `limit` of the lines that are wanted."""
    found, unreadable = latest(lines, limit, of=of, kind=kind)
    for what in unreadable:
        typer.echo(what, err=True)
    for line, text in found:
        typer.echo(text if json else f"{line.number:>7}  {line.at:%Y-%m-%d %H:%M:%S}  {line.kind:<16} {line.said()}")


def exported(lines: Iterable[tuple[str, str]], file: Path | None, after: int) -> None:
    """Write the lines that come after that number, as they stand."""
    wanted = (text for _, text in lines if after == 0 or read(text).number > after)
    if file is None:
        sys.stdout.writelines(f"{text}\n" for text in wanted)
        return
    try:
        with file.open("x", encoding="utf-8") as target:
            target.writelines(f"{text}\n" for text in wanted)
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}", remedy="name one that is not there yet, where you may write") from error
    typer.echo(f"wrote {file}")
