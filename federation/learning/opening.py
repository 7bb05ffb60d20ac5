"""Beginning a session: all that it needs is written down, its package and seed model in the store, so that any process can run it from its id."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from fdn_worker.protocol import InputFile
from fdn_worker.protocol.names import execution_id
from federation.centre import Centre
from federation.learning.aggregator import Corrected
from federation.learning.models import ModelFile
from federation.learning.package import Package
from federation.learning.phases import StoredPackage, StoredSession
from federation.learning.session import BY_PACKAGE, CENTRE, SessionConfiguration, SessionRefused, model_id
from federation.learning.trail import Trail
from storage.keys import package_key
from storage.learning import Learning, ModelRow, SessionRow


def session_id(user: str, key: str) -> str:
    """The id of `user`'s session with idempotency key `key`."""
    return str(execution_id(user, f"session/{key}"))


def check(asked: SessionConfiguration) -> Package:
    """The session's package. Raises what is wrong with it, or with the function that selects clients."""
    package = Package.load(Path(asked.package))
    if asked.model == BY_PACKAGE:
        package.words("seed")
    asked.select.selection()
    return package


def begin(centre: Centre, asked: SessionConfiguration, key: str, *, flow_run: str = "") -> SessionRow:
    """Begin a session, or find the one that the user has begun with that key; another one under it is refused. Nothing is sent to nodes."""
    package = check(asked)
    if asked.nodes != "*":
        centre.enrolled(asked.nodes)
    centre.enrolled([one.at for one in asked.combiners if one.at != CENTRE])
    stored = StoredSession(**asked.model_dump(by_alias=True), client=_stored(centre, package))
    return _begin(centre, stored, key, flow_run)


def begin_again(centre: Centre, row: SessionRow, key: str, model: str, *, rounds: int | None = None) -> SessionRow:
    """A new session that is asked for the same as another one, and goes on from a model."""
    changes = {"model": model} | ({"rounds": rounds} if rounds is not None else {})
    return _begin(centre, stored(row).model_copy(update=changes), key, "")


def _begin(centre: Centre, asked: StoredSession, key: str, flow_run: str) -> SessionRow:
    id = session_id(asked.user, key)
    seed = None if asked.model == BY_PACKAGE else _seed(centre, asked)
    row = centre.records.learning.create_session(
        id, name=asked.name, user=asked.user, project=asked.project, key=key, configuration=asked.model_dump_json(by_alias=True),
        package=asked.client.checksum, flow_run=flow_run or None,
    )  # fmt: skip
    if isinstance(seed, ModelRow):
        _goes_on(centre, asked, id, seed)
    elif seed is not None:
        Trail(centre).keep(seed.path, session=id, round=0)
    return row


def _seed(centre: Centre, asked: StoredSession) -> ModelRow | ModelFile:
    """The model that the session begins with, checked; of another session, or a file."""
    if (id := model_id(asked.model)) is None:
        return ModelFile(Path(asked.model))
    found = centre.records.learning.model(id)
    if found is None:
        raise SessionRefused(f"model: there is no model {id}", remedy="see `fem models list`")
    if found.deleted is not None:
        raise SessionRefused(f"model: the file of model {id} was deleted on {found.deleted:%Y-%m-%d}", remedy="see `fem models list`")
    return found


def _goes_on(centre: Centre, asked: StoredSession, id: str, parent: ModelRow) -> None:
    """The other session's model as this one's seed, with what the same aggregator remembered; where that is about single clients, all begins anew."""
    trail = Trail(centre)
    with tempfile.TemporaryDirectory(prefix="fem-seed-") as folder:
        state: Path | None = None
        aggregator = asked.make_aggregator(1)
        if not isinstance(aggregator, Corrected) and (found := trail.fetch_state(parent, Path(folder) / "state.safetensors")):
            state = found if ModelFile(found).metadata.get("aggregator") == aggregator.name else None
        trail.keep(trail.fetch(parent, Path(folder) / "model.safetensors"), session=id, round=0, parent=parent.id, state=state)


def _stored(centre: Centre, package: Package) -> StoredPackage:
    """The package's files in the store, once for all sessions with the same."""
    files = []
    for name, path in package.files().items():
        with path.open("rb") as source:
            sha256, size = hashlib.file_digest(source, "sha256").hexdigest(), source.tell()
            source.seek(0)
            key = package_key(package.checksum, name)
            if (there := centre.store.stat(key)) is None or there.size != size:
                centre.store.put(key, source, size)
        files.append(InputFile(name=name, size=size, sha256=sha256, where=key))
    return StoredPackage(
        name=package.name, checksum=package.checksum, commands={entry: package.argv(entry) for entry in package.client.entry_points},
        settings=package.settings, image=package.client.image, image_digest=package.client.image_digest, files=tuple(files),
    )  # fmt: skip


def latest_model(learning: Learning, row: SessionRow) -> ModelRow:
    """The last model that a session has made, whose file is there."""
    there = [model for model in learning.models(row.id) if model.deleted is None]
    if not there:
        raise SessionRefused(f"session {row.id} has no model to go on from", remedy="name another one: `fem models list`")
    return max(there, key=lambda model: model.round)


def stored(row: SessionRow) -> StoredSession:
    """What the session was asked for."""
    return StoredSession.model_validate_json(row.configuration)
