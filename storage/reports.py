"""Reports: the accounts summed up by whom, what, where and when. The database groups, so a million attempts take seconds."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd
from sqlalchemy import Column, ColumnElement, Date, Float, cast, func, literal_column, select

from fdn_worker.errors import Fault, FdnError
from fdn_worker.protocol import State
from storage.listing import Owner, visible
from storage.records import Records
from storage.schema import accounts

#: What to group and filter by.
KEYS = ("user", "project", "tool", "node", "task", "state")
PERIODS = ("day", "week", "month")
#: Columns of every report, after those that it is grouped by.
FIGURES = (
    "runs", "succeeded", "failed", "cancelled", "lost", "rejected", "attempts", "cpu_hours", "wall_hours", "peak_memory", "bytes_in", "bytes_out",
    "retried", "estimated",
)  # fmt: skip
#: Largest sum of bytes; a column of a table holds no larger number.
MOST = 2**62


class BadReport(FdnError):
    """There is no such report."""

    code = "bad-report"
    fault = Fault.USER


def report(
    records: Records, by: Sequence[str] = ("user",), *, period: str | None = None, since: datetime | None = None, until: datetime | None = None,
    where: Mapping[str, str] | None = None, of: Owner | None = None,
) -> pd.DataFrame:  # fmt: skip
    """A row for each group of attempts that ended from `since` on and before `until`, of the owner or of all; `by` nothing gives one row.

    Columns: `period` (its first day, UTC; weeks begin on Monday) if one is given, those of `by`, then FIGURES: `runs`, each
    counted where its first attempt is, so that groups add up; `attempts` and how they ended; hours of processors and of running
    tasks; the largest memory and the sums of bytes; `retried`, attempts after the first of their run; `estimated`, attempts of
    which some figure is a guess.
    """
    where = where or {}
    for name in (*by, *where):
        _known(name, KEYS, "report by")
    groups: dict[str, ColumnElement[Any]] = {name: accounts.c[name] for name in dict.fromkeys(by)}
    with records.database.read() as db:
        if period is not None:
            _known(period, PERIODS, "period")
            groups = {"period": _period(db.dialect.name, period), **groups}
        chosen: list[ColumnElement[bool]] = [visible(accounts, of)]
        chosen += [accounts.c[name] == _value(name, value) for name, value in where.items()]
        chosen += [accounts.c.ended >= since] if since is not None else []
        chosen += [accounts.c.ended < until] if until is not None else []
        columns = [column.label(name) for name, column in groups.items()]
        asked = select(*columns, *_figures()).where(*chosen).group_by(*groups.values()).order_by(*groups.values())
        rows = db.execute(asked).all()
    # without groups SQL gives a row of nothing
    frame = pd.DataFrame([tuple(row) for row in rows if row.attempts], columns=[*groups, *FIGURES])
    for name in FIGURES:
        # sums of bytes come as floats, since SQLite refuses to add up more than 63 bits
        frame[name] = frame[name].astype("float64") if name.endswith("_hours") else frame[name].clip(upper=MOST).astype("int64")
    if period is not None:
        frame["period"] = pd.to_datetime(frame["period"])
    if "state" in groups:
        frame["state"] = frame["state"].map(str)
    return frame


def total(frame: pd.DataFrame) -> dict[str, Any]:
    """The figures of all rows of a report together."""
    return {name: frame[name].max() if name == "peak_memory" and len(frame) else frame[name].sum() for name in FIGURES}


def _figures() -> list[ColumnElement[Any]]:
    ended = accounts.c.state
    states = {state: func.count().filter(ended == state) for state in State if state.terminal}
    sums: dict[str, ColumnElement[Any]] = {
        "runs": func.count().filter(accounts.c.attempt == 1),
        **{state.value.lower(): count for state, count in states.items()},
        "attempts": func.count(),
        "cpu_hours": func.sum(accounts.c.cpu_seconds) / 3600.0,
        "wall_hours": func.sum(accounts.c.running) / 3600.0,
        "peak_memory": func.max(accounts.c.peak_memory),
        "bytes_in": _total(accounts.c.bytes_in),
        "bytes_out": _total(accounts.c.bytes_out),
        "retried": func.count().filter(accounts.c.attempt > 1),
        "estimated": func.count().filter(accounts.c.estimated),
    }
    return [sums[name].label(name) for name in FIGURES]


def _total(column: Column[Any]) -> ColumnElement[float]:
    return func.sum(cast(column, Float))


def _period(dialect: str, period: str) -> ColumnElement[Any]:
    """The first day of the period in which an attempt ended."""
    ended = accounts.c.ended
    if dialect == "postgresql":
        return cast(func.date_trunc(literal_column(f"'{period}'"), func.timezone(literal_column("'UTC'"), ended)), Date)
    # a moment is kept as text that begins with its date: to cut that is quicker than to read it, and rounds nothing
    day = func.substr(ended, 1, 10)
    if period == "day":
        return day
    if period == "month":
        return func.substr(ended, 1, 7).concat("-01")
    # on to Sunday, unless it is one, and back to its Monday
    return func.date(day, literal_column("'weekday 0'"), literal_column("'-6 days'"))


def _value(name: str, value: str) -> Any:
    if name != "state":
        return value
    _known(value.upper(), [state.value for state in State if state.terminal], "state")
    return State(value.upper())


def _known(given: str, known: Sequence[str], what: str) -> None:
    if given not in known:
        near = difflib.get_close_matches(given, known, n=1)
        raise BadReport(f"{what} {given!r}: unknown", remedy=f"did you mean {near[0]}?" if near else f"known are: {', '.join(known)}")
