"""A session with models in its trail, as its loop would leave them."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from federation.centre import Centre
from federation.learning.models import ModelInfo, save
from federation.learning.trail import Trail
from storage.learning import ModelRow
from tests.unit.learning import arrays

CONFIGURATION = '{"aggregator": {"name": "fedavg", "arguments": {}}}'


def a_session(centre: Centre) -> str:
    return centre.records.learning.create_session(
        str(uuid4()), name="digits", user="ada", project="p", key="k", configuration=CONFIGURATION, package="f" * 64
    ).id


def kept(centre: Centre, folder: Path, session: str, round_: int, parent: ModelRow | None = None, *, loss: float = 0.5) -> ModelRow:
    """Of a round with the clients `site-a` and `site-b`; round 0 makes a seed."""
    path = folder / f"{session}-{round_}.safetensors"
    save(path, arrays(round_), ModelInfo(examples=30.0, metrics={"loss": loss}) if round_ else None)
    state = folder / "state.safetensors"
    save(state, {"velocity/scale": arrays(round_)["scale"]})
    learning = centre.records.learning
    if round_:
        learning.open_round(session, round_, ["site-a", "site-b", "site-c"])
        learning.put_update(session, round_, "site-a", outcome="COUNTED", examples=10.0)
        learning.put_update(session, round_, "site-b", outcome="CARRIED", examples=20.0)
        learning.put_update(session, round_, "site-c", outcome="LATE", examples=5.0)
    return Trail(centre).keep(
        path, session=session, round=round_, parent=parent.id if parent else None, participants=2 if round_ else 0, state=state if round_ else None
    )  # fmt: skip


def a_trail(centre: Centre, folder: Path, rounds: int = 3) -> list[ModelRow]:
    """A seed and its line of models, of one session."""
    session = a_session(centre)
    line: list[ModelRow] = []
    for round_ in range(rounds + 1):
        line.append(kept(centre, folder, session, round_, line[-1] if line else None, loss=1.0 / (round_ + 1)))
    return line
