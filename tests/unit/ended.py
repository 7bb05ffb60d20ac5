"""Runs that have ended and left an output, as a node would have left it."""

from __future__ import annotations

import hashlib
import io

from fdn_worker.protocol import Manifest, ManifestFile, Report, Signer, State, now, pack
from federation.centre import Centre, Submission
from federation.request import TaskRequest
from federation.results import stage_out
from storage.keys import attempt_key
from tests.unit.helpers import an_event

DATA = b"a,b\n"


def ended(centre: Centre, key: str, project: str = "", state: State = State.SUCCEEDED) -> Submission:
    """A run that has ended and left one output."""
    one = centre.stage_in(TaskRequest(node="site-a", argv=("true",), project=project), key)
    leave(centre, one, state)
    return one


def leave(centre: Centre, one: Submission, state: State = State.SUCCEEDED) -> None:
    order = centre.order(one.run, one.attempt)
    file = ManifestFile(path="outputs/a.csv", size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())
    manifest = Manifest(
        execution=order.execution, task=order.task, node=order.node, run=order.run, attempt=one.attempt, at=now(), exit_code=0, files=(file,)
    )  # fmt: skip
    sealed = pack(manifest, Signer())
    for path, data in (("outputs/a.csv", DATA), ("manifest.json", sealed)):
        centre.store.put(attempt_key(one.execution, one.task, one.node, one.attempt, path), io.BytesIO(data), len(data))
    told = Report(exit_code=0, manifest_sha256=hashlib.sha256(sealed).hexdigest())
    centre.records.record_events([an_event(order, 1, state=State.RUNNING, lines=("x",)), an_event(order, 2, state=state, report=told)])
    stage_out(centre, one)
