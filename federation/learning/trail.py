"""The model trail: the files of models in the object store, and what the records say of them, kept in step.

A model's id follows from its session and round. So a session that was killed while it kept one finds it there, or writes over what was left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid5

from fdn_worker.errors import Fault, FdnError, StoreUnavailable, SystemFault
from fdn_worker.protocol import now
from federation.centre import Centre
from federation.learning.checkpoints import Checkpoints
from federation.learning.models import ModelFile
from federation.results import OutputFile, download
from storage.keys import model_key, model_state_key, session_prefix
from storage.learning import ModelRow


class ModelGone(FdnError):
    """The file of a model was deleted; its place in the trail is all that is left."""

    code = "model-deleted"
    fault = Fault.USER


def model_id(session: str, round: int) -> str:
    """Of the model that a round of a session makes; round 0 has the seed."""
    return str(uuid5(UUID(session), f"model:{round}"))


class Trail:
    """Models of all sessions. Safe from several threads; a session has one writer at a time."""

    def __init__(self, centre: Centre) -> None:
        self._centre, self._store, self._learning = centre, centre.store, centre.records.learning

    def keep(
        self, file: Path, *, session: str, round: int, parent: str | None = None, participants: int = 0, state: Path | None = None
    ) -> ModelRow:
        """Store a model with the aggregator's `state`, and write its record last; or find the one that this round made before.

        Then the one that stands counts, which need not be `file` to the last bit. Raises ModelRefused when the file is no model.
        """
        id = model_id(session, round)
        if (stands := self._learning.model(id)) is not None:
            return stands
        info = ModelFile(file).info
        with file.open("rb") as source:
            sha256, size = hashlib.file_digest(source, "sha256").hexdigest(), source.tell()
        row = ModelRow(
            id=id, session=session, round=round, parent=parent, created=now(), where_=model_key(session, id), size=size, sha256=sha256,
            examples=info.examples, metrics=dict(info.metrics), participants=participants,
        )  # fmt: skip
        files = {row.where_: file} | ({model_state_key(session, id): state} if state is not None else {})
        try:
            for key, path in files.items():
                with path.open("rb") as source:
                    self._store.put(key, source, path.stat().st_size)
            return self._learning.add_model(row)
        except BaseException:
            with suppress(FdnError):  # which would hide why; the next try writes over what is left
                if self._learning.model(id) is None:
                    self._store.delete(files)
            raise

    def fetch(self, model: ModelRow, to: Path, told: Callable[[int], None] = lambda _: None) -> Path:
        """The model as the file `to`: checked by its SHA-256, and whole or not there. `told` hears of the bytes as they come."""
        if model.deleted is not None:
            raise ModelGone(
                f"the file of model {model.id} was deleted on {model.deleted:%Y-%m-%d}, by its session's checkpoint policy",
                remedy=f"see `fem models descendants {model.id}` for those that came of it",
            )
        wanted = OutputFile(path=to.name, key=model.where_, size=model.size, sha256=model.sha256)
        try:
            return download(self._centre, wanted, to.parent, told)
        except StoreUnavailable as error:
            if error.code != "download-corrupted":
                raise
            raise StoreUnavailable(
                f"model {model.id}: what came is not what was stored: its SHA-256 differs", code=error.code, remedy="try again"
            ) from error
        except OSError as error:
            raise SystemFault(f"{to}: {error.strerror}", code="download-disk", remedy="name a place with room for it") from error

    def fetch_state(self, model: ModelRow, to: Path) -> Path | None:
        """What the aggregator remembered with that model, or None if nothing."""
        key = model_state_key(model.session, model.id)
        if self._store.stat(key) is None:
            return None
        with to.open("wb") as sink:
            for chunk in self._store.get(key):
                sink.write(chunk)
        return to

    def prune(self, session: str, policy: Checkpoints, newest: int = 1) -> list[ModelRow]:
        """Delete the files of models that the policy lets go, and what an earlier call was interrupted at; the models that this marked.

        They are marked before the first file goes, so that no record promises what is not there. `newest`: rounds whose models stay, two where
        stragglers that began with the model before are still to be counted.
        """
        marked = self._learning.mark_deleted(policy.gone(self._learning.models(session), newest))
        deleted = [model.id for model in self._learning.models(session) if model.deleted is not None]
        left = {key for id in deleted for key in (model_key(session, id), model_state_key(session, id))}
        self._store.delete([info.key for info in self._store.list(session_prefix(session)) if info.key in left])
        return marked
