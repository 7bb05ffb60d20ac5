"""The records that the gateway is measured on: 10,000 executions of 200 users at ten nodes, of which each user's last goes on."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import insert

from benchmarks.harness import ROOT
from fdn_worker.protocol import Heartbeat, Manifest, ManifestFile, Report, Signer, State, TaskEvent, now, pack
from fdn_worker.protocol.names import execution_id, run_id
from federation.catalogue.folder import load
from federation.centre import Centre
from federation.gateway.users import api_token
from federation.sync import carry_out, differing
from federation.tool_request import ToolRequest
from storage import schema
from storage.keys import attempt_key

NODES = tuple(f"site-{number}" for number in range(10))
TASK = "main"
#: Log lines that an ended run has left, and files.
LINES, FILES = 40, 5


def fill(centre: Centre, executions: int, users: Sequence[str]) -> dict[str, str]:
    """User -> the execution of his that goes on: at one node it has ended and left files, at another it runs."""
    records, moment = centre.records, now()
    catalogue = load(ROOT / "deployments/catalogue")
    carry_out(centre, catalogue, differing(centre, catalogue))
    # Heard once, and believed for as long as the benchmark takes.
    records.heard(
        [
            Heartbeat(node=node, session=uuid4(), number=1, at=moment, interval=3600, worker_version="1.0", launchers=("docker",), slots=4,
                      slots_free=2, cpus=8, memory=32 << 30, disk_free=10**12, datasets=("census",))
            for node in NODES
        ],
        moment,
    )  # fmt: skip
    tables: dict[str, list[dict[str, object]]] = {"executions": [], "runs": [], "attempts": []}
    going: dict[str, str] = {}
    for number in range(executions):
        user, at = users[number % len(users)], moment - timedelta(minutes=executions - number)
        last = number >= executions - len(users)
        execution = execution_id(user, str(number))
        nodes = (NODES[number % len(NODES)], NODES[(number + 1) % len(NODES)])
        asked = ToolRequest(tool="hello", nodes=nodes, user=user, project="heart")
        tables["executions"].append(
            {"id": str(execution), "user": user, "project": "heart", "tool": "hello", "key": str(number), "request": asked.model_dump_json(),
             "created": at, "closed": None if last else at, "state": "OPEN" if last else "SUCCEEDED", "outcome": None if last else "2/2"}
        )  # fmt: skip
        for node in nodes:
            state, report = (State.RUNNING, None) if last and node == nodes[1] else (State.SUCCEEDED, Report(exit_code=0))
            if last and report:
                report = report.model_copy(update={"manifest_sha256": _left(centre, execution, node)})
            run = str(run_id(execution, TASK, node))
            tables["runs"].append({"id": run, "execution": str(execution), "task": TASK, "node": node, "attempt": 1, "state": state})
            tables["attempts"].append(
                {"run": run, "attempt": 1, "order_body": b"", "issued": at, "deadline": at + timedelta(days=1), "dispatched": at, "state": state,
                 "state_at": at, "last_number": 0, "report": report.model_dump_json() if report else None}
            )  # fmt: skip
        if last:
            going[user] = str(execution)
    with records.database.write() as db:
        for name, rows in tables.items():
            db.execute(insert(schema.metadata.tables[name]), rows)
    for own in going.values():
        records.record_events([event for run in records.runs_of(own) for event in said(UUID(own), run.node, run.id, 1, LINES)])
    return going


def said(execution: UUID, node: str, run: str, number: int, lines: int) -> Iterator[TaskEvent]:
    """What a node says next of a run: so many lines of its log, ten an event, which are numbered from `number` on."""
    for event in range(lines // 10):
        told = tuple(f"epoch {event}, step {step}: loss 0.{step}" for step in range(10))
        yield TaskEvent(execution=execution, task=TASK, node=node, run=UUID(run), attempt=1, number=number + event, at=now(), lines=told)


def tokens(centre: Centre, users: Sequence[str]) -> dict[str, str]:
    """User -> an API token; each is of the project."""
    gateway = centre.records.gateway
    for user in users:
        # By tokens alone: a password's hash takes a tenth of a second.
        gateway.add_user(user, "researcher", None, ["heart"], by="benchmark")
    return {user: api_token(gateway, user, "dashboard", None, by="benchmark") for user in users}


def _left(centre: Centre, execution: UUID, node: str) -> str:
    """Put a manifest into the store; its hash."""
    files = tuple(ManifestFile(path=f"outputs/part-{number}.csv", size=1000, sha256=f"{number:064x}") for number in range(FILES))
    manifest = Manifest(
        execution=execution, task=TASK, node=node, run=run_id(execution, TASK, node), attempt=1, at=now(), exit_code=0, files=files
    )
    sealed = pack(manifest, Signer())
    centre.store.put(attempt_key(execution, TASK, node, 1, "manifest.json"), io.BytesIO(sealed), len(sealed))
    return hashlib.sha256(sealed).hexdigest()
