"""One trace a run: what a collector hears of it from the centre and from a real worker, each a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from fdn_worker.protocol import State
from federation.centre import Submission
from federation.local import LocalFederation
from tests.support.collector import Collector, collecting
from tests.support.ports import free_ports
from tests.support.rig import Rig, eventually, rig

NODE = "site"
CENTRES = {"flow", "stage-in", "dispatch", "stage-out"}
NODES = {"queue", "node", "accepted", "staging-in", "running", "staging-out", "upload"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Rig]:
    options = {"slots": 1, "tracing": {"endpoint": collector.address}}
    with rig(LocalFederation(tmp_path_factory.mktemp("tracing"), (NODE,), options=options), trace_endpoint=collector.address) as made:
        made.start(NODE)
        yield made


def test_a_run_is_one_trace_from_the_flow_to_the_upload(house: Rig, collector: Collector) -> None:
    # Longer than the span has to be: the node notes the start a moment after the command began.
    script = "echo said; echo kept > secret-name.txt; sleep 1"
    submission = house.send(NODE, "/bin/sh", "-c", script, outputs=("*",), user="ada-lovelace", tool="summary")
    assert house.result(submission).state is State.SUCCEEDED
    spans = collector.complete(submission.run, CENTRES | NODES)
    ids = {name: span.span_id for name, span in spans.items()}
    assert len(set(ids.values())) == len(ids)
    under_node = NODES - {"queue", "node"}
    assert {name: span.parent_span_id for name, span in spans.items()} == {
        name: b"" if name == "flow" else ids["node"] if name in under_node else ids["flow"] for name in ids
    }
    told = {service: {span.name for _, span in collector.spans if _ == service} for service, _ in collector.spans}
    assert told == {"fem": CENTRES, f"fdn-worker {NODE}": NODES}
    for name, span in spans.items():
        assert spans["flow"].start_time_unix_nano <= span.start_time_unix_nano + 10**9, name
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= spans["flow"].end_time_unix_nano, name
    assert spans["running"].end_time_unix_nano - spans["running"].start_time_unix_nano >= 0.2 * 10**9
    text = "".join(str(span) for span in spans.values())
    assert [word for word in ("ada", "secret", "said", "/bin/sh") if word in text] == [], "of people, data and commands nothing is told"


def test_a_run_that_failed_and_its_retry_are_one_trace(house: Rig, collector: Collector) -> None:
    submission = house.send(NODE, "/bin/false")
    assert house.result(submission).state is State.FAILED
    spans = collector.complete(submission.run, CENTRES | NODES)
    assert spans["node"].status.code == spans["flow"].status.code == Status.STATUS_CODE_ERROR
    assert spans["node"].status.message == "exit-code"
    house.centre.order_again(submission.run, 2)
    again = Submission(submission.execution, submission.run, submission.task, NODE, 2)
    assert house.centre.dispatch(again)
    assert house.result(again).state is State.FAILED

    def attempts() -> set[tuple[bytes, bytes]]:
        return {
            (span.span_id, span.parent_span_id) for _, span in collector.spans if span.trace_id == again.run.bytes and span.name == "node"
        }

    eventually("two attempts in the trace", lambda: len(attempts()) == 2)
    assert {parent for _, parent in attempts()} == {spans["flow"].span_id}


def test_a_collector_that_is_gone_hinders_nothing(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_ports(1, begin=26000)[0]}"
    federation = LocalFederation(tmp_path, (NODE,), options={"tracing": {"endpoint": nowhere}})
    with rig(federation, trace_endpoint=nowhere) as made:
        made.start(NODE)
        assert made.result(made.send(NODE, "/bin/true")).state is State.SUCCEEDED
        assert made.stop(NODE) == 0


def test_without_the_setting_nothing_is_told_and_nothing_loaded(tmp_path: Path) -> None:
    with rig(LocalFederation(tmp_path, (NODE,))) as made:
        submission = made.prepare(NODE, "/bin/true")
        assert made.centre.order(submission.run, 1).trace is None
    loaded = "import sys, fdn_worker.worker, federation.centre; sys.exit('opentelemetry.sdk' in sys.modules or 'prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0
