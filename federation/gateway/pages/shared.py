"""What several pages show alike: states, times, sizes, facts, tables with links."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any

from nicegui import ui

from federation.gateway.pages.frame import AT

#: State of a run or an execution, or presence of a node -> icon and colour of Quasar's. The word always stands beside it.
MARKS = {
    "QUEUED": ("schedule", "grey-7"), "ACCEPTED": ("schedule", "grey-7"), "OPEN": ("play_circle", "primary"), "STAGING_IN": ("download", "primary"),
    "RUNNING": ("play_circle", "primary"), "STAGING_OUT": ("upload", "primary"), "AWAITING_RELEASE": ("front_hand", "accent"),
    "SUCCEEDED": ("check_circle", "positive"), "DEGRADED": ("error", "warning"), "FAILED": ("cancel", "negative"), "REJECTED": ("block", "negative"),
    "LOST": ("help", "negative"), "CANCELLED": ("do_not_disturb_on", "warning"),
    "CREATED": ("schedule", "grey-7"), "PAUSED": ("pause_circle", "warning"), "FINISHED": ("check_circle", "positive"),
    "STOPPED": ("stop_circle", "warning"), "KEPT": ("save", "primary"), "RELEASED": ("new_releases", "positive"), "DELETED": ("delete", "grey-7"),
    "connected": ("check_circle", "positive"), "suspect": ("error", "warning"), "gone": ("cloud_off", "negative"),
}  # fmt: skip
#: Heading of a column with `minute`.
BEGUN = "begun (UTC)"
OTHER = ("circle", "grey-7")


def state(name: str) -> None:
    """A state with its mark."""
    icon, colour = MARKS.get(name, OTHER)
    with ui.element("span").classes("fem-mark"):
        ui.icon(icon, color=colour).props('aria-hidden="true"')
        ui.label(words(name))


def words(name: str) -> str:
    """AWAITING_RELEASE as people read it."""
    return name.replace("_", " ").lower() if name.isupper() else name


def moment(at: datetime | None) -> str:
    """A time, in UTC as the records have it."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else ""


def minute(at: datetime) -> str:
    """The same for a table, whose heading BEGUN has the zone."""
    return f"{at:%Y-%m-%d %H:%M}"


def ago(at: datetime | None, now: datetime) -> str:
    """How long it is since, coarse enough to stay the same for a while."""
    return "never" if at is None else f"{lasted((now - at).total_seconds())} ago"


def lasted(seconds: float) -> str:
    """Seconds for people."""
    seconds = max(0, seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.0f} d"


def size(of: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if of < 1024:
            return f"{of:.0f} {unit}" if unit == "B" or of >= 10 else f"{of:.1f} {unit}"
        of /= 1024
    return f"{of:.1f} TiB"


def heading(text: str) -> None:
    """Of a part of the page."""
    ui.label(text).classes("fem-heading").props('role="heading" aria-level="2"')


def facts(of: Mapping[str, object]) -> None:
    """Names and values; what is empty is left out."""
    with ui.element("dl").classes("fem-facts"):
        for name, value in of.items():
            if value not in ("", None, ()):
                with ui.element("dt"):
                    ui.label(name)
                with ui.element("dd"):
                    ui.label(str(value))


def table(
    label: str, columns: Sequence[str], rows: list[dict[str, Any]], *, rows_at_most: int, links: Mapping[str, str] | None = None, sortable: bool = True,
) -> ui.table:  # fmt: skip
    """Rows, each with an `id`, under these columns. `links`: column -> field that holds its address; a column `state` has its mark."""
    made = ui.table(
        columns=[{"name": name, "label": name, "field": name, "align": "left", "sortable": sortable} for name in columns],
        rows=marked(rows), row_key="id", pagination=rows_at_most,
    ).classes("full-width fem-wide").props("flat dense wrap-cells hide-pagination")  # fmt: skip
    made.props.update({"role": "region", "aria-label": label, "tabindex": 0})
    for column, address in (links or {}).items():
        made.add_slot(
            f"body-cell-{column}",
            f"""<q-td :props="props"><a v-if="props.row['{address}']" :href="props.row['{address}']" class="nicegui-link">{{{{ props.value }}}}</a>
            <span v-else>{{{{ props.value }}}}</span></q-td>""",
        )
    made.add_slot(
        "body-cell-state",
        """<q-td :props="props"><span class="fem-mark"><q-icon :name="props.row.mark[0]" :color="props.row.mark[1]" aria-hidden="true" />
        {{ props.value }}</span></q-td>""",
    )
    return made


def marked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the mark of their state."""
    return [row | {"mark": MARKS.get(row["state"], OTHER), "state": words(row["state"])} if "state" in row else row for row in rows]


def file(text: str, path: str) -> None:
    """A link that downloads what is there."""
    ui.link(text, path).props("download")


def at(path: str) -> str:
    """Address of a page for a link that NiceGUI does not make."""
    return AT + path


Changed = Callable[..., Coroutine[Any, Any, None]]


def search(label: str, value: str, changed: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    """A field whose text counts once the typing pauses."""
    made = ui.input(label, value=value).props("debounce=350 clearable")
    made.on_value_change(lambda event: changed(event.value or ""))


class Pager:
    """Buttons below a list that is read a page at a time."""

    def __init__(self, back: Callable[[], Awaitable[None]], forward: Callable[[], Awaitable[None]]) -> None:
        with ui.row().classes("items-center"):
            self._newer = ui.button("Newer", icon="chevron_left", on_click=back).props("flat no-caps")
            self._where = ui.label().props('role="status"')
            self._older = ui.button("Older", on_click=forward).props("flat no-caps icon-right=chevron_right")

    def show(self, before: int, *, more: bool) -> None:
        """As many pages stand before this one, and whether another follows."""
        self._newer.set_enabled(before > 0)
        self._older.set_enabled(more)
        self._where.text = f"Page {before + 1}"


class Part:
    """What is drawn into an element, and anew only where it shows something else: who is at a button of it, or in its dialog, stays there."""

    def __init__(self, holder: ui.element) -> None:
        self._holder = holder
        self._shown: object = None

    def show(self, what: object, draw: Callable[[], object]) -> None:
        """Draw it, unless `what` it is about is what was shown last."""
        if what == self._shown:
            return
        self._shown = what
        self._holder.clear()
        with self._holder:
            draw()


async def confirmed(question: str, act: str, leave: str) -> bool:
    """Whether somebody means it. The question is the page's: it stays where the button that asked it is drawn anew."""
    with ui.context.client.content, ui.dialog() as dialog, ui.card():
        ui.label(question)
        with ui.row():
            ui.button(act, on_click=lambda: dialog.submit(True)).props("no-caps color=negative")
            ui.button(leave, on_click=lambda: dialog.submit(False)).props("no-caps flat")
    return bool(await dialog)
