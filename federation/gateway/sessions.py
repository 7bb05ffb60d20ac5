"""Sessions of federated learning and their models, as every interface shows and steers them. Each function passes the gate, and blocks."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from federation.gateway.access import Action, Caller, decide
from federation.gateway.queries import owner
from federation.gateway.services import Services
from federation.learning import running
from federation.learning.trail import ModelGone
from federation.results import OutputFile
from storage.learning_rows import ModelRow, SessionRow, SessionState, Wish


def sessions(
    services: Services, who: Caller, limit: int, *, state: SessionState | None = None, user: str | None = None, before: datetime | None = None
) -> list[SessionRow]:  # fmt: skip
    """Those that the caller may see, the newest first."""
    services.gate.allow(who, Action.SESSIONS_READ)
    return services.centre.records.learning.sessions(state, user, limit, before, owner(who, Action.SESSIONS_READ))


def session(services: Services, who: Caller, action: Action, id_: str) -> SessionRow:
    """The session with this id; NotFound where it is not there, or not the caller's."""
    return services.gate.reveal(who, action, services.centre.records.learning.session(_id(id_)), id_)


def steer(services: Services, who: Caller, id_: str, wish: Wish) -> SessionRow:
    """Have it pause once its round is over, go on, or stop now. RecordsRefused (`session-ended`) for one that is over."""
    row = session(services, who, Action.SESSIONS_STEER, id_)
    learning = services.centre.records.learning
    row = learning.want(row.id, wish, by=who.name)
    if wish == "stop":
        running.stop(services.centre, row.id, f"stopped by {who.name}")
    elif wish == "run" and row.state == "PAUSED":
        services.submitter.learn(row)
    return row


def model(services: Services, who: Caller, id_: str) -> ModelRow:
    """The model with this id, of a session that is the caller's."""
    learning = services.centre.records.learning
    row = learning.model(_id(id_))
    services.gate.reveal(who, Action.MODELS_READ, learning.session(row.session) if row else None, id_)
    assert row is not None, "reveal found its session"
    return row


def model_file(row: ModelRow) -> OutputFile:
    """Where it lies, for `files.send`. ModelGone where it was deleted."""
    if row.deleted is not None:
        raise ModelGone(f"the file of model {row.id} was deleted on {row.deleted:%Y-%m-%d}, by its session's checkpoint policy")
    return OutputFile(path=f"{row.id}.safetensors", key=row.where_, size=row.size, sha256=row.sha256)


def lineage(services: Services, who: Caller, row: SessionRow) -> list[ModelRow]:
    """The models of a session, what they came of and what came of them in other sessions; of those alone that the caller may see."""
    learning = services.centre.records.learning
    own = learning.models(row.id)
    found = {one.id: one for one in own}
    for first in [one for one in own if one.parent not in found]:
        found |= {one.id: one for one in (*learning.ancestors(first.id), *learning.descendants(first.id))}
    seen = {one: learning.session(one) for one in {model.session for model in found.values()}}
    return [one for one in found.values() if (its := seen[one.session]) is not None and decide(who, Action.SESSIONS_READ, its)]


def _id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        # What is no id is nobody's: PostgreSQL takes nothing else for one.
        return str(UUID(int=0))
