"""Federated learning in the records: sessions, their rounds, the clients' updates, the models and what was measured. Every write may be repeated.

Nothing here is deleted: of a model whose file is gone the row stays, so that every other one can tell where it came from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Unpack

from sqlalchemy import ColumnElement, Connection, Integer, Select, Table, func, literal, select, true, update

from fdn_worker.protocol import now
from storage.audit import AuditRecords
from storage.database import Database
from storage.learning_rows import (
    ENDED,
    MeasureRow,
    ModelRow,
    Outcome,
    Phase,
    RoundRow,
    RoundState,
    SessionRow,
    SessionState,
    UpdateFields,
    UpdateRow,
    Wish,
)
from storage.listing import Owner, visible
from storage.prefixes import CANDIDATES, bounds, only
from storage.rows import RecordsRefused
from storage.schema import measures, models, rounds, sessions, updates

__all__ = [
    "ENDED", "Learning", "MeasureRow", "ModelRow", "Outcome", "Phase", "RoundRow", "RoundState", "SessionRow", "SessionState",
    "UpdateFields", "UpdateRow", "Wish",
]  # fmt: skip


class Learning:
    """Part of the records: `records.learning`. Safe from several threads and processes."""

    def __init__(self, database: Database, audit: AuditRecords) -> None:
        self._db, self._audit = database, audit

    # Sessions

    def create_session(
        self, id: str, *, name: str, user: str, project: str, key: str, configuration: str, package: str, flow_run: str | None = None
    ) -> SessionRow:
        """Write a session, or find the one that stands. Another configuration (JSON text) or package under the same id is refused."""
        at = now()
        values = {
            "name": name, "user": user, "project": project, "key": key, "configuration": configuration, "package": package,
            "state": "CREATED", "wanted": "run", "reason": "", "round": 0, "flow_run": flow_run, "created": at, "changed": at,
        }  # fmt: skip
        with self._db.write() as db:
            insert = self._db.insert(sessions).values(id=id, **values).on_conflict_do_nothing()
            created = db.execute(insert.returning(sessions.c.id)).first() is not None
            row = _session(db, id)
            if created:
                self._audit.append(db, "session", session=id, name=name, user=user, project=project, key=key, package=package)
        if json.loads(row.configuration) != json.loads(configuration) or row.package != package:
            raise RecordsRefused(
                f"session {id} (key {row.key!r} of user {row.user!r}) was begun with another configuration or package",
                code="idempotency-conflict", remedy="use another key, or the same configuration and package",
            )  # fmt: skip
        return row

    def session(self, id: str) -> SessionRow | None:
        """The session, or None."""
        with self._db.read() as db:
            row = db.execute(select(sessions).where(sessions.c.id == id)).first()
        return SessionRow(**row._mapping) if row else None

    def find_session(self, prefix: str) -> SessionRow:
        """The one session whose id begins so."""
        asked = select(sessions).where(sessions.c.id.between(*bounds(prefix, "session"))).order_by(sessions.c.id).limit(CANDIDATES + 1)
        with self._db.read() as db:
            return only([SessionRow(**row._mapping) for row in db.execute(asked)], prefix, "session", "fem sessions list")

    def sessions(
        self, state: SessionState | None = None, user: str | None = None, limit: int = 50, before: datetime | None = None,
        of: Owner | None = None,
    ) -> list[SessionRow]:  # fmt: skip
        """The newest first; with `before`, those that were created before then; with `of`, those that are the owner's."""
        wanted = _all_of({sessions.c.state: state, sessions.c.user: user}) & visible(sessions, of)
        wanted &= true() if before is None else sessions.c.created < before
        newest = select(sessions).where(wanted).order_by(sessions.c.created.desc(), sessions.c.id).limit(limit)
        with self._db.read() as db:
            return [SessionRow(**row._mapping) for row in db.execute(newest)]

    def set_state(
        self, id: str, state: SessionState, reason: str = "", round: int | None = None, flow_run: str | None = None
    ) -> SessionRow:
        """The session stands so from now on; `round` and `flow_run` stay as they are where they are None."""
        at = now()
        values = {"state": state, "reason": reason, "changed": at, "ended": at if state in ENDED else None}
        values |= {name: value for name, value in (("round", round), ("flow_run", flow_run)) if value is not None}
        with self._db.write() as db:
            db.execute(update(sessions).where(sessions.c.id == id).values(values))
            return _session(db, id)

    def want(self, id: str, wanted: Wish, by: str) -> SessionRow:
        """Somebody asks it to run, pause or stop; its loop looks at that. One that has ended is refused (`session-ended`)."""
        with self._db.write() as db:
            row = _session(db, id, lock=True)
            if row.state in ENDED:
                raise RecordsRefused(
                    f"session {id} is {row.state}", code="session-ended", remedy="begin a new one, which may go on from any of its models"
                )
            if row.wanted != wanted:
                db.execute(update(sessions).where(sessions.c.id == id).values(wanted=wanted, changed=now()))
                self._audit.append(db, "session-wanted", session=id, wanted=wanted, person=by)
            return _session(db, id)

    # Rounds and updates

    def open_round(self, session: str, number: int, requested: Sequence[str]) -> RoundRow:
        """Open a round, or find it as it was opened first; one that failed is opened anew. `session.round` follows."""
        values = {"state": "OPEN", "began": now(), "ended": None, "reason": "", "requested": list(requested)}
        with self._db.write() as db:
            _session(db, session, lock=True)
            insert = self._db.insert(rounds).values(session=session, number=number, **values)
            insert = insert.on_conflict_do_update(
                index_elements=[rounds.c.session, rounds.c.number], set_=values, where=rounds.c.state == "FAILED"
            )
            db.execute(insert)
            db.execute(update(sessions).where(sessions.c.id == session, sessions.c.round < number).values(round=number, changed=now()))
            return _round(db, session, number)

    def close_round(self, session: str, number: int, state: RoundState, model: str | None = None, reason: str = "") -> RoundRow:
        """It ended so; `model` is what came of it."""
        with self._db.write() as db:
            of = (rounds.c.session == session, rounds.c.number == number)
            db.execute(update(rounds).where(*of).values(state=state, ended=now(), model=model, reason=reason))
            return _round(db, session, number)

    def rounds(self, session: str) -> list[RoundRow]:
        """The first one first."""
        with self._db.read() as db:
            found = db.execute(select(rounds).where(rounds.c.session == session).order_by(rounds.c.number))
            return [RoundRow(**row._mapping) for row in found]

    def round(self, session: str, number: int) -> RoundRow | None:
        """The round, or None."""
        return next((row for row in self.rounds(session) if row.number == number), None)

    def put_update(self, session: str, round: int, client: str, **fields: Unpack[UpdateFields]) -> UpdateRow:
        """Write what is known of a client in a round that was opened; fields that are not given stay as they are."""
        place = (updates.c.session, updates.c.round, updates.c.client)
        with self._db.write() as db:
            _round(db, session, round)
            insert = self._db.insert(updates).values({"session": session, "round": round, "client": client, "began": now(), **fields})
            db.execute(insert.on_conflict_do_update(index_elements=place, set_=fields) if fields else insert.on_conflict_do_nothing())
            of = select(updates).where(updates.c.session == session, updates.c.round == round, updates.c.client == client)
            return UpdateRow(**db.execute(of).one()._mapping)

    def updates(self, session: str, round: int | None = None) -> list[UpdateRow]:
        """Of a session, or of one round of it, by round and client."""
        wanted = _all_of({updates.c.session: session, updates.c.round: round})
        with self._db.read() as db:
            found = db.execute(select(updates).where(wanted).order_by(updates.c.round, updates.c.client))
            return [UpdateRow(**row._mapping) for row in found]

    def counted(self, session: str, round: int) -> list[UpdateRow]:
        """The updates that a round's model is made of."""
        return [row for row in self.updates(session, round) if row.outcome in ("COUNTED", "CARRIED")]

    # Models

    def add_model(self, model: ModelRow) -> ModelRow:
        """Write a model, or find the one that stands: another one under the same id is refused, and one whose parent is not there."""
        with self._db.write() as db:
            _session(db, model.session)
            if model.parent is not None:
                _model(db, model.parent)
            db.execute(self._db.insert(models).values(asdict(model)).on_conflict_do_nothing())
            row = _model(db, model.id)
        if (row.session, row.round, row.parent, row.sha256) != (model.session, model.round, model.parent, model.sha256):
            raise RecordsRefused(f"model {model.id} stands already, and is another one", code="idempotency-conflict")
        return row

    def tell_metrics(self, id: str, metrics: Mapping[str, float]) -> ModelRow:
        """Add to what is known of a model, by its validation say; where a name stands already, the new value counts."""
        with self._db.write() as db:
            row = _model(db, id, lock=True)
            db.execute(update(models).where(models.c.id == id).values(metrics={**row.metrics, **metrics}))
            return _model(db, id)

    def model(self, id: str) -> ModelRow | None:
        """The model, or None."""
        return next(iter(self._models(select(models).where(models.c.id == id))), None)

    def find_model(self, prefix: str) -> ModelRow:
        """The one model whose id begins so."""
        asked = select(models).where(models.c.id.between(*bounds(prefix, "model"))).order_by(models.c.id).limit(CANDIDATES + 1)
        return only(self._models(asked), prefix, "model", "fem models list")

    def models(self, session: str | None = None, released: bool | None = None, leaf: bool | None = None) -> list[ModelRow]:
        """The newest first; of one session; those that are released, or that no other came of (`leaf`), or the others."""
        wanted = _all_of({models.c.session: session})
        if released is not None:
            wanted &= models.c.released.is_not(None) == literal(released)
        if leaf is not None:
            child = models.alias()
            wanted &= select(child.c.id).where(child.c.parent == models.c.id).exists() == literal(not leaf)
        return self._models(select(models).where(wanted).order_by(models.c.created.desc(), models.c.round.desc(), models.c.id))

    def ancestors(self, id: str) -> list[ModelRow]:
        """What it came of, the nearest first, across sessions."""
        line = select(models.c.parent.label("id"), literal(1, Integer).label("far")).where(models.c.id == id).cte("line", recursive=True)
        line = line.union_all(select(models.c.parent, line.c.far + 1).join(line, models.c.id == line.c.id))
        return self._models(select(models).join(line, models.c.id == line.c.id).order_by(line.c.far))

    def descendants(self, id: str) -> list[ModelRow]:
        """What came of it, the nearest first, across sessions."""
        tree = select(models.c.id, literal(1, Integer).label("far")).where(models.c.parent == id).cte("tree", recursive=True)
        tree = tree.union_all(select(models.c.id, tree.c.far + 1).join(tree, models.c.parent == tree.c.id))
        return self._models(select(models).join(tree, models.c.id == tree.c.id).order_by(tree.c.far, models.c.created, models.c.id))

    def release(self, id: str, by: str, note: str = "") -> ModelRow:
        """Mark a model as released; a repeat changes nothing. One whose file is gone is refused (`model-deleted`)."""
        with self._db.write() as db:
            row = _model(db, id, lock=True)
            if row.deleted is not None:
                raise RecordsRefused(f"model {id} was deleted on {row.deleted:%Y-%m-%d}", code="model-deleted")
            if row.released is None:
                db.execute(update(models).where(models.c.id == id).values(released=now(), released_by=by, note=note))
                self._audit.append(db, "model-released", model=id, session=row.session, sha256=row.sha256, person=by, note=note)
            return _model(db, id)

    def mark_deleted(self, ids: Iterable[str]) -> list[ModelRow]:
        """Their files are gone, or about to go; the models that this marks. Those that are released stay as they are."""
        with self._db.write() as db:
            of = (models.c.id.in_(list(ids)), models.c.deleted.is_(None), models.c.released.is_(None))
            marked = [ModelRow(**row._mapping) for row in db.execute(update(models).where(*of).values(deleted=now()).returning(models))]
            if marked:
                self._audit.append(db, "models-deleted", models=sorted(row.id for row in marked))
        return marked

    # Measures

    def add_measures(self, rows: Sequence[MeasureRow]) -> None:
        """Write many at once; a second one of the same step replaces the first."""
        place = (measures.c.session, measures.c.round, measures.c.client, measures.c.phase, measures.c.name, measures.c.step)
        # The last of the same place; and SQLite keeps no NaN, so none of them is kept as such.
        last = {(row.session, row.round, row.client, row.phase, row.name, row.step): row for row in rows}
        values = [asdict(row) | {"value": row.value if math.isfinite(row.value) else None} for row in last.values()]
        if not values:
            return
        insert = self._db.insert(measures)
        with self._db.write() as db:
            db.execute(
                insert.on_conflict_do_update(index_elements=place, set_={"value": insert.excluded.value, "at": insert.excluded.at}), values
            )

    def measures(self, session: str, name: str | None = None, round: int | None = None, client: str | None = None) -> list[MeasureRow]:
        """Of a session, by round, client, phase, name and step."""
        c = measures.c
        wanted = _all_of({c.session: session, c.name: name, c.round: round, c.client: client})
        with self._db.read() as db:
            found = db.execute(select(measures).where(wanted).order_by(c.round, c.client, c.phase, c.name, c.step)).all()
        return [MeasureRow(**{**row._mapping, "value": math.nan if row.value is None else row.value}) for row in found]

    def heard(self, session: str) -> int:
        """How many measures a session has: by that one knows whether there are new ones."""
        with self._db.read() as db:
            return db.scalars(select(func.count()).select_from(measures).where(measures.c.session == session)).one()

    def _models(self, wanted: Select[Any]) -> list[ModelRow]:
        with self._db.read() as db:
            return [ModelRow(**row._mapping) for row in db.execute(wanted)]


def _all_of(given: dict[ColumnElement[Any], Any]) -> ColumnElement[bool]:
    wanted: ColumnElement[bool] = true()
    for column, value in given.items():
        wanted = wanted & (column == value) if value is not None else wanted
    return wanted


def _one(db: Connection, table: Table, id: str, what: str, *, lock: bool) -> Any:
    asked = select(table).where(table.c.id == id)
    row = db.execute(asked.with_for_update() if lock else asked).first()
    if row is None:
        raise RecordsRefused(f"there is no {what} {id}", code=f"unknown-{what}", remedy=f"see `fem {what}s list`")
    return row._mapping


def _session(db: Connection, id: str, *, lock: bool = False) -> SessionRow:
    return SessionRow(**_one(db, sessions, id, "session", lock=lock))


def _model(db: Connection, id: str, *, lock: bool = False) -> ModelRow:
    return ModelRow(**_one(db, models, id, "model", lock=lock))


def _round(db: Connection, session: str, number: int) -> RoundRow:
    row = db.execute(select(rounds).where(rounds.c.session == session, rounds.c.number == number)).first()
    if row is None:
        raise RecordsRefused(f"session {session} has no round {number}", code="unknown-round")
    return RoundRow(**row._mapping)
