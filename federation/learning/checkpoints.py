"""Which models of a session keep their files: `all`, `last`, `best:METRIC` or `every:N`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from fdn_worker.errors import SettingsError
from storage.learning import ModelRow

#: Metrics that end so are the better the lower they are; of any other one a minus says so.
FALLING = ("loss", "error")
_REMEDY = "write all, last, best:METRIC (best:-METRIC where less is better) or every:N"


@dataclass(frozen=True)
class Checkpoints:
    """A policy. `every`: rounds by whose number models stay, 0 for none; `best`: a metric, `rises`: more of it is better."""

    every: int = 1
    best: str = ""
    rises: bool = True

    @classmethod
    def parse(cls, text: str) -> Checkpoints:
        """From what stands in a session file."""
        kind, _, what = text.partition(":")
        if text in ("all", "last"):
            return cls(every=1 if text == "all" else 0)
        if kind == "every" and what.isascii() and what.isdigit() and int(what):
            return cls(every=int(what))
        if kind == "best" and (name := what.removeprefix("-")):
            return cls(every=0, best=name, rises=not (what.startswith("-") or name.endswith(FALLING)))
        raise SettingsError(f"checkpoints {text!r}: there is no such policy", remedy=_REMEDY)

    def gone(self, models: Sequence[ModelRow], newest: int = 1) -> list[str]:
        """Ids of those models of one session that go: never a seed, one of the `newest` rounds, or one that is released."""
        there = [model for model in models if model.deleted is None]
        latest = max((model.round for model in there), default=0)
        best = self._best(there)

        def stays(model: ModelRow) -> bool:
            kept = model.round == 0 or model.round > latest - newest or (self.every and model.round % self.every == 0)
            return bool(kept or model.released is not None or model is best)

        return [model.id for model in there if not stays(model)]

    def _best(self, models: Sequence[ModelRow]) -> ModelRow | None:
        """The earliest of those that no other is better than."""
        told = [model for model in models if isfinite(model.metrics.get(self.best, float("nan")))]
        return max(told, key=lambda model: (model.metrics[self.best] * (1 if self.rises else -1), -model.round), default=None)
