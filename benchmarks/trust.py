"""What signing, policy and audit add to a run: a process `true` on RabbitMQ with all of it, and with none.

Both are timed from the start of the order's publish to the run's last event, as in `overhead`, and take turns. With trust,
centre and node sign and check every message, the node's policy has fifty rules of which the last one lets the order in, and
its audit log is written, signed and flushed. The other worker is the same program with these parts taken out
(`benchmarks.trustless`), and its centre neither signs nor checks. The figure is the difference of each pair. The second one
is the processor time of both sides together, the audit log's thread included, which runs after the last event.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import Figure, Median, in_turn, milliseconds
from benchmarks.house import House, Services, house

RULES = 50
RULE = """
[[rule]]
id = "rule-{number}"
effect = "allow"
users = ["{user}"]
projects = ["study-{number}-*"]
launchers = ["process"]
datasets = ["census", "cohort"]
max_runs = 1000000
"""
LAST = """
[[rule]]
id = "all"
effect = "allow"
launchers = ["process"]
"""


def measure(services: Services, quick: bool) -> Iterator[Figure]:
    with ExitStack() as stack:
        policy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fem-bench-"))) / "policy.toml"
        policy.write_text("".join(RULE.format(number=number, user=f"user-{number}@*") for number in range(RULES - 1)) + LAST)
        with_trust = {"launcher": "process", "heartbeat": 10.0, "policy": str(policy)}
        trusting = stack.enter_context(house(services, **with_trust))  # type: ignore[arg-type]
        bare = stack.enter_context(house(services, launcher="process", heartbeat=10.0, trust=False))
        used: dict[str, list[float]] = {trusting.node: [], bare.node: []}

        def ours(one: House) -> float:
            submission = one.stage("/bin/true")
            before = _processor(one)
            began = one.send(submission)
            ended = one.inbox.end_of(submission)
            one.settled(submission)
            # The audit log's thread gathers entries for some tenths of a second.
            time.sleep(0.4)
            used[one.node].append(_processor(one) - before)
            return ended - began

        count = 8 if quick else 240
        rounds = in_turn(count, lambda: ours(trusting), lambda: ours(bare), warm=3)
    whole, floor = (Median.of([taken[which] for taken in rounds]) for which in range(2))
    added = Median.of([(taken[0] - taken[1]) * 1e3 for taken in rounds])
    yield Figure(
        "signing, policy and audit, added to a run on RabbitMQ", milliseconds(whole.value), f"the same run without {milliseconds(floor.value)}",
        added, " ms", 3.0,
    )  # fmt: skip
    mine, theirs = ([seconds * 1e3 for seconds in used[one.node][-count:]] for one in (trusting, bare))
    yield Figure(
        "the same in processor time, both sides", f"{Median.of(mine).value:.0f} ms", f"without {Median.of(theirs).value:.0f} ms",
        Median.of([first - second for first, second in zip(mine, theirs, strict=True)]), " ms", None,
    )  # fmt: skip


def _processor(one: House) -> float:
    """Seconds that the worker, its children and this process have used; the kernel counts in hundredths."""
    fields = Path(f"/proc/{one.worker}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + time.process_time()
