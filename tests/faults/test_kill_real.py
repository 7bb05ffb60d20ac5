"""The worker killed on RabbitMQ, MinIO and Docker, at the points where those differ from what is embedded."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import docker
import pytest

from fdn_worker.protocol import State
from federation.centre import Submission
from tests.conftest import Services
from tests.support.rig import Rig, name_of
from tests.support.services import real_rig
from tests.support.waiting import SOON

#: Counts its executions in the sandbox, waits for $1, copies its input, and leaves one output of several parts.
TASK = (
    'echo x >> count; echo begun; until [ -e "$1" ]; do sleep 0.02; done; cp "$INPUT_PATH/in.txt" out.txt; '
    "head -c 12000000 /dev/zero > big; echo ended"
)
POINTS = (
    "after:receive", "after:record:accepted", "after:get", "before:start-container", "after:start-container", "after:record:started",
    "before:record:exited", "after:put:*:2", "after:complete", "after:put:*:5",
    "before:publish:task-event SUCCEEDED", "after:publish:task-event SUCCEEDED", "after:remove-container",
)  # fmt: skip
RUNNING = ("after:start", "after:record:lines")


@pytest.fixture(scope="module")
def house(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    name = f"kill-{time.time_ns():x}"
    nodes = tuple(f"{name}-{number}" for number in range(len(POINTS) + len(RUNNING)))
    options = {"transfer": {"part_size": 5 * 1024**2}}
    with real_rig(services, tmp_path_factory.mktemp("kill"), nodes, name, options=options) as made:
        yield made


def starts(services: Services, submission: Submission, since: float) -> int:
    """How often Docker started a container of that name."""
    api = docker.APIClient(base_url=services.docker_host)
    wanted = {"event": ["start"], "label": [f"fdn.name={name_of(submission)}"]}
    # Docker takes fractions of a second, which the SDK's types do not know.
    return len(list(api.events(since=int(since), until=f"{time.time():.6f}", filters=wanted, decode=True)))  # type: ignore[call-overload]


@pytest.mark.parametrize("point", POINTS + RUNNING)
def test_killed(house: Rig, services: Services, point: str) -> None:
    began, node = time.time(), house.federation.nodes[(POINTS + RUNNING).index(point)]
    (house.federation.home / "in.txt").write_text("data\n")
    go = "go" if point in RUNNING else "/dev/null"
    submission = house.send(
        node, "/bin/sh", "-c", TASK, "sh", go, image=services.images["busybox"],
        inputs=(str(house.federation.home / "in.txt"),), outputs=("out.txt", "count", "big"),
    )  # fmt: skip
    assert house.start_dying(node, point).wait(SOON) == -signal.SIGKILL
    house.start(node)
    if point in RUNNING:
        house.reach(submission, State.RUNNING)
        (house.folder(submission) / "sandbox" / "go").touch()

    result = house.result(submission)
    assert result.state is State.SUCCEEDED, result.explain()
    house.check_told_once(submission)
    assert [line for event in house.history(submission) for line in event.lines] == ["begun", "ended"]
    assert [house.output(result, f"outputs/{name}") for name in ("count", "out.txt")] == [b"x\n", b"data\n"]
    assert result.report.image_digest is not None
    house.check_clean(node)
    assert starts(services, submission, began) == 1
    house.kill(node)
