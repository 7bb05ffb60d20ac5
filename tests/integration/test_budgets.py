"""A worker's disk: a thousand runs within fixed budgets, and an intake that stops before the disk is full, says so, and goes on."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.disk import weigh
from fdn_worker.policy import disk_free
from fdn_worker.protocol import State, now, pack
from fdn_worker.protocol.names import command_queue, run_id
from federation.local import LocalFederation
from federation.presence import presence
from federation.request import TaskRequest
from tests.support.rig import Rig, eventually, rig

MIB = 1024**2
RUNS, AT_ONCE = 1000, 40
#: Seconds for an order; afterwards it may be forgotten.
DEADLINE = 12.0
#: What a run leaves behind where nothing is collected: a kept sandbox of its own with so many bytes, and its order in the journal.
LEFT, PADDING = 40_000, 12_000
BUDGET = {"journal": 8 * MIB, "sandboxes": 4 * MIB, "logs": MIB, "every": 0.25}
ENDED = "SELECT max(CAST(substr(task, 2) AS INTEGER)) - sum(phase != 'done') FROM runs"
#: All of it together, with what comes between two looks, SQLite's own log and the audit log, which is never collected.
MOST = 30 * MIB


def house(home: Path, **options: Any) -> Any:
    # Where the rig looks for it.
    log = {"log_file": str(home / "site.log"), "keep_sandboxes": True, "slots": 4}
    return rig(LocalFederation(home, ("site",), options=log | options))


def send(made: Rig, execution: uuid.UUID, journal: sqlite3.Connection) -> Iterator[int]:
    """RUNS orders of one execution, each once at most AT_ONCE others wait; its number."""
    centre = made.centre
    tasks = {number: (f"t{number}", run_id(execution, f"t{number}", "site")) for number in range(RUNS)}
    centre.records.create_execution(
        str(execution), user="ada", project="", tool="", key=str(execution), request_json="{}",
        runs=[(str(run), task, "site") for task, run in tasks.values()],
    )  # fmt: skip
    words = ("/bin/sh", "-c", f"head -c {LEFT} /dev/zero > left; echo run")
    for number, (task, run) in tasks.items():
        request = TaskRequest(
            node="site", argv=words, task=task, user="ada", sandbox=f"kept-{number}", environment={"PADDING": "x" * PADDING},
            disk=MIB, deadline=now() + timedelta(seconds=DEADLINE),
        )  # fmt: skip
        order = request.order(execution, run, 1, (), now())
        body = pack(order, centre.signer)
        centre.records.add_attempt(str(order.run), 1, order_body=body, issued=order.issued, deadline=order.deadline)
        centre.broker.publish(body, key=command_queue("site"), message_id=order.message_id)
        eventually("others have ended", lambda: number - ended(journal) < AT_ONCE)  # noqa: B023 (asked at once)
        yield number


def ended(journal: sqlite3.Connection) -> int:
    """How many have, those included that are forgotten."""
    return int(journal.execute(ENDED).fetchone()[0] or 0)


@pytest.mark.timeout(240)
def test_a_thousand_runs_within_a_budget(tmp_path: Path) -> None:
    with house(tmp_path, budget=BUDGET) as made:
        made.start("site")
        state, execution, peak, parts = made.state_dir("site"), uuid.uuid4(), 0, dict[str, int]()
        with closing(sqlite3.connect(f"file:{state}/journal.db?mode=ro", uri=True)) as journal:
            for number in send(made, execution, journal):
                if number % 10 == 0:
                    peak = max(peak, weigh(state).size)
        runs = made.centre.records.runs_of
        eventually("all have ended", lambda: all(row.state.terminal for row in runs(str(execution))))
        assert {row.state for row in runs(str(execution))} == {State.SUCCEEDED}
        assert LEFT < peak < MOST

        def small() -> bool:
            parts.update({path.name: weigh(path).size if path.is_dir() else path.stat().st_size for path in state.iterdir()})
            return parts["journal.db"] + parts["journal.db-wal"] <= BUDGET["journal"] and parts["kept"] <= BUDGET["sandboxes"]

        eventually("what may go has gone", small)
        assert weigh(state).size < MOST, parts
        assert sum(path.stat().st_size for path in tmp_path.glob("site.log*")) <= BUDGET["logs"]
        # Without budgets it would have been this, at least.
        assert RUNS * (LEFT + PADDING) > MOST
        made.check_clean("site")


def test_the_intake_stops_before_the_disk_is_full_and_goes_on(tmp_path: Path) -> None:
    with house(tmp_path, limits={"disk_reserve": disk_free(tmp_path) + 2**40}) as made:
        made.start("site")

        eventually(
            "it says so to the centre", lambda: "is nearly full: no orders are taken" in str(presence(made.centre.records)[0].problems)
        )
        submission = made.send("site", "/bin/true")
        made.stop("site")
        depth = made.centre.broker.depth(command_queue("site"))
        assert depth is not None
        assert depth.messages == 1
        assert made.history(submission) == []
        # With room again it takes what has waited.
        text = made.federation.settings_file("site").read_text()
        made.federation.settings_file("site").write_text("\n".join(line for line in text.splitlines() if "disk_reserve" not in line))
        made.start("site")
        assert made.result(submission).state is State.SUCCEEDED
