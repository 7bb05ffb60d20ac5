"""The bar of a wait: how many runs have ended."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from federation.client.shown import Execution

#: States that a run does not leave.
ENDED = frozenset({"SUCCEEDED", "FAILED", "REJECTED", "CANCELLED", "LOST"})


class Bar:
    """rich's, which draws itself in terminals and notebooks; comes with it, and is not needed otherwise."""

    def __init__(self, execution: Execution, *, shown: bool) -> None:
        self.states = {run["id"]: run["state"] for run in execution.runs}
        self._progress: Any = None
        if shown:
            from rich.progress import Progress

            self._progress = Progress()
            self._task = self._progress.add_task(execution["tool"] or "task", total=len(self.states))
        self._draw()

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress:
            self._progress.stop()

    @property
    def ended(self) -> int:
        return sum(state in ENDED for state in self.states.values())

    def heard(self, name: str, data: dict[str, Any]) -> None:
        """An event of the execution."""
        if name == "run" and data["state"]:
            self.states[data["run"]] = data["state"]
            self._draw()

    def done(self, execution: Execution) -> None:
        """How it ended; also what no event told."""
        self.states |= {run["id"]: run["state"] for run in execution.runs}
        self._draw()

    def _draw(self) -> None:
        if self._progress:
            self._progress.update(self._task, completed=self.ended)
