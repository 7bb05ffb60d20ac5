"""What the client gives, as notebooks show it: plain data, with a table as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


class Execution(dict[str, Any]):
    """An execution as the gateway tells it; `execution["state"]` and so on."""

    @property
    def id(self) -> str:
        return str(self["id"])

    @property
    def state(self) -> str:
        return str(self["state"])

    @property
    def runs(self) -> list[dict[str, Any]]:
        return list(self["runs"])

    def table(self) -> pd.DataFrame:
        """A row for each run: state, why, and what it used."""
        import pandas as pd

        rows = [
            {**_plain(run), **{name: (run["used"] or {}).get(name) for name in ("exit_code", "cpu_seconds", "peak_memory")}}
            for run in self.runs
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"<execution {self.id[:8]} of {self['tool']}: {self.state}>"

    def _repr_html_(self) -> str:
        title = f"{escape(self['tool'] or 'single task')} <code>{escape(self.id)}</code>: <b>{escape(self.state)}</b>"
        why = f"<p>{escape(self['outcome'])}</p>" if self["outcome"] else ""
        return f"<p>{title}</p>{why}{table([_plain(run) for run in self.runs])}"


class Listing(list[dict[str, Any]]):
    """A list of things; `columns` are those that are shown."""

    columns: Sequence[str] = ()

    def table(self) -> pd.DataFrame:
        """All of it."""
        import pandas as pd

        return pd.DataFrame(list(self))

    def _repr_html_(self) -> str:
        return table([{name: one.get(name) for name in self.columns} for one in self])


class Executions(Listing):
    """Executions of a list."""

    columns = ("id", "tool", "state", "user", "project", "created", "closed")


class Nodes(Listing):
    """The nodes."""

    columns = ("name", "display_name", "presence", "version", "slots_free", "slots", "launchers", "datasets", "problems")


class Tools(Listing):
    """The catalogue."""

    columns = ("name", "title", "version", "description")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as HTML; whatever they hold is text."""
    if not rows:
        return "<p>none</p>"
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(_text(value))}</td>" for value in row.values()) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _plain(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": run["task"], "node": run["node"], "attempt": run["attempt"], "state": run["state"],
        "why": run["reason"]["message"] if run["reason"] else "",
    }  # fmt: skip


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
