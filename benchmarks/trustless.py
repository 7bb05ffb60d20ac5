"""A worker that neither signs nor checks, asks no policy and keeps no audit log: the floor of the benchmark `trust`.

The worker's own code has no such switch. `python -m benchmarks.trustless start --settings FILE`.
"""

from __future__ import annotations

from typing import Any

from fdn_worker import cli, journal
from fdn_worker.protocol import Keyring, Signer
from fdn_worker.settings import WorkerSettings


def _nothing(*_: Any, **__: Any) -> None:
    pass


def main() -> None:
    """As `fdn-worker`, without all that."""
    journal.note = journal.note_order = journal.note_state = _nothing  # type: ignore[assignment]
    Signer.of_node = classmethod(lambda *_: Signer())  # type: ignore[assignment, method-assign]
    WorkerSettings.unsigned = property(lambda _: True)  # type: ignore[assignment, method-assign]
    checked = Keyring.open
    Keyring.open = lambda _, body: checked(Keyring(unsigned_ok=True), body)  # type: ignore[method-assign]
    cli.main()


if __name__ == "__main__":
    main()
