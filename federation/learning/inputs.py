"""What a client is sent: its settings, and the model to begin with, which for SCAFFOLD and FedDyn is its own; and what is remembered of it for that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fdn_worker.protocol import InputFile
from federation.centre import Centre, described
from federation.learning.aggregator import Aggregator, Corrected
from federation.learning.client_state import model_for_client
from federation.learning.models import ModelFile
from federation.learning.package import SETTINGS_INPUT, Entry
from federation.learning.phases import MODEL_INPUT, StoredSession, phase_execution
from storage.keys import client_state_key, client_states_prefix
from storage.learning import ModelRow


class Inputs:
    """Of one session. Files are made below `folder`, and go into the store."""

    def __init__(self, centre: Centre, session: str, asked: StoredSession, folder: Path) -> None:
        self._store, self._session, self._asked, self._folder = centre.store, session, asked, folder

    def settings(self, aggregator: Aggregator, number: int, entry: Entry) -> InputFile:
        """The package's settings, over them the session's, and over these what the aggregator's formulas rest on; and the round's number."""
        told = {**self._asked.client.settings, **self._asked.settings, **aggregator.settings(), "round": number}
        path = self._folder / f"{number}-{entry}-{SETTINGS_INPUT}"
        path.write_text(json.dumps(told, indent=1, sort_keys=True))
        return self._stored(number, entry, SETTINGS_INPUT, path)

    def model(self, row: ModelRow) -> Mapping[str, InputFile]:
        """A model as it lies in the store, the same for all."""
        return {MODEL_INPUT: InputFile(name=MODEL_INPUT, size=row.size, sha256=row.sha256, where=row.where_)}

    def corrected(
        self, aggregator: Corrected, number: int, base: ModelFile, state: ModelFile | None, client: str
    ) -> Mapping[str, InputFile]:
        """The model of the round before, with this client's own correction."""
        path = self._folder / f"{client}.model.safetensors"
        model_for_client(aggregator, base, state, self.remembered(client, number), path)
        # It lies under a name of the client's, and is found by it under the one that all have.
        file = self._stored(number, "train", f"{client}/{MODEL_INPUT}", path)
        return {MODEL_INPUT: file.model_copy(update={"name": MODEL_INPUT})}

    def remembered(self, client: str, number: int) -> ModelFile | None:
        """What is remembered of a client from before that round; read before the next call for the same client."""
        if not (keys := self._before(client, number)):
            return None
        path = self._folder / f"{client}.own.safetensors"
        with path.open("wb") as sink:
            for chunk in self._store.get(keys[-1]):
                sink.write(chunk)
        return ModelFile(path)

    def remember(self, number: int, states: Mapping[str, Path]) -> None:
        """Keep what is remembered of clients after that round, whose model has yet to be kept: so the older ones stay."""
        for client, path in states.items():
            with path.open("rb") as source:
                self._store.put(client_state_key(self._session, client, number), source, path.stat().st_size)

    def forget(self, number: int, clients: Mapping[str, Path]) -> None:
        """The round's model is kept: what was remembered before it is of no use any more."""
        for client in clients:
            self._store.delete(self._before(client, number))

    def _before(self, client: str, number: int) -> list[str]:
        """Keys of what is remembered from earlier rounds, the newest last."""
        limit = client_state_key(self._session, client, number)
        return [info.key for info in self._store.list(client_states_prefix(self._session, client)) if info.key < limit]

    def _stored(self, number: int, entry: Entry, name: str, path: Path) -> InputFile:
        """The file as an input of a phase's execution, which the centre's retention deletes with it."""
        file = described(entry, phase_execution(self._asked.user, self._session, number, entry), name, path)
        with path.open("rb") as source:
            self._store.put(file.where, source, file.size)
        path.unlink()
        return file
