"""A work pool with a process worker, and the flow execute_tool deployed to it, over simulated nodes and a relay that is a service."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL, temporary_settings

from fdn_worker.protocol import State, TaskOrder
from fdn_worker.protocol.names import execution_id
from federation.centre import Centre
from federation.local import LocalFederation
from federation.simulated import SimulatedNodes, Step
from storage.records import ExecutionRow
from tests.support.rig import ROOT
from tests.support.waiting import SOON, eventually

NODES = ("n1", "n2", "n3")
TOOL = "name: nothing\ntasks:\n  - id: main\n    timeout: 600\n    command: {base: ['true']}\n"


class Gates:
    """The nodes' behaviour: each run goes on until the test says how it ends."""

    def __init__(self) -> None:
        self._ends: dict[str, queue.Queue[Step]] = {}

    def __call__(self, order: TaskOrder) -> Iterator[Step]:  # type: ignore[override]
        yield State.ACCEPTED
        yield State.RUNNING
        yield self.of(order.node).get()

    def of(self, node: str) -> queue.Queue[Step]:
        return self._ends.setdefault(node, queue.Queue())

    def open(self, *nodes: str, end: Step = State.SUCCEEDED) -> None:
        for node in nodes:
            self.of(node).put(end)


class Pool:
    """What a test needs of it; `environment` is that of processes that belong to the centre."""

    def __init__(
        self,
        name: str,
        client: SyncPrefectClient,
        federation: LocalFederation,
        centre: Centre,
        nodes: SimulatedNodes,
        environment: dict[str, str],
    ) -> None:
        self.name, self.client, self.federation, self.centre, self.nodes, self.environment = (
            name,
            client,
            federation,
            centre,
            nodes,
            environment,
        )
        self.gates = Gates()
        self.nodes.behave = self.gates  # type: ignore[assignment]
        self.deployment = self._deploy()
        self.relay = self.spawn("fem", "relay")
        self.worker = self.start_worker()
        eventually("the relay is up", lambda: "relay is up" in self.log("relay"))

    def _deploy(self) -> UUID:
        self.command("prefect", "work-pool", "create", "--type", "process", self.name)
        (self.federation.home / "tool.yaml").write_text(TOOL)
        return self.client.create_deployment(
            self.client.create_flow_from_name("execute-tool"), self.name, entrypoint="flows.execute_tool.execute_tool",
            work_pool_name=self.name, enforce_parameter_schema=False, tags=["federation"],
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
            parameters={"tool": str(self.federation.home / "tool.yaml"), "nodes": list(NODES)},
        )  # fmt: skip

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(words, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=SOON)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def spawn(self, *words: str) -> subprocess.Popen[bytes]:
        """A process of the centre's, in a group of its own; its output goes to a file named after it."""
        with (self.federation.home / f"{words[-1]}.log").open("ab") as log:
            return subprocess.Popen(words, env=self.environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def start_worker(self) -> subprocess.Popen[bytes]:
        self.worker = self.spawn("prefect", "worker", "start", "--pool", self.name)
        return self.worker

    def log(self, name: str) -> str:
        """What that process of the centre's has said."""
        return (self.federation.home / f"{name}.log").read_text()

    def close(self) -> None:
        self.gates.open(*NODES * 10)
        for process in (self.relay, self.worker):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start(self, **parameters: Any) -> FlowRun:
        return self.client.create_flow_run_from_deployment(self.deployment, parameters=parameters)

    def flow_run(self, run: FlowRun) -> FlowRun:
        return self.client.read_flow_run(run.id)

    def reach(self, run: FlowRun, *names: str, seconds: float = SOON) -> FlowRun:
        """Wait until the flow run's state bears one of these names."""

        def there() -> FlowRun | None:
            found = self.flow_run(run)
            return found if found.state is not None and found.state.name in names else None

        return eventually(f"{run.name} is {' or '.join(names)}", there, seconds)

    def execution(self, run: FlowRun) -> ExecutionRow:
        found = self.centre.records.execution(str(execution_id("", str(run.id))))
        assert found is not None
        return found

    def states(self, run: FlowRun) -> list[str]:
        return [row.state for row in self.centre.records.runs_of(str(execution_id("", str(run.id))))]

    def all_are(self, run: FlowRun, *states: str, seconds: float = SOON) -> None:
        """Wait until the runs at all nodes are in one of these states."""
        eventually(f"all {states}", lambda: len(found := self.states(run)) == len(NODES) and set(found) <= set(states), seconds)

    def processes_of(self, run: FlowRun) -> list[int]:
        """Prefect's processes for a flow run: their environment names it."""
        wanted = f"PREFECT__FLOW_RUN_ID={run.id}".encode()
        return sorted(int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit() and wanted in _environment(folder))


def _environment(folder: Path) -> list[bytes]:
    try:
        return (folder / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


@contextmanager
def pool(name: str, home: Path, environment: dict[str, str]) -> Iterator[Pool]:
    """A pool of its own federation; its processes are ended with it."""
    federation = LocalFederation(home, NODES)
    federation.prepare()
    environment = environment | federation.environment() | {"FEM_RELAY": "service", "PREFECT_WORKER_QUERY_SECONDS": "1"}
    environment |= {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    with ExitStack() as stack:
        centre = Centre.open(federation.settings().model_copy(update={"relay": "service"}))
        stack.callback(centre.close)
        nodes = stack.enter_context(SimulatedNodes(federation.settings().broker_url.get_secret_value(), NODES))
        stack.enter_context(temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}))
        client = stack.enter_context(get_client(sync_client=True))
        made = Pool(name, client, federation, centre, nodes, environment)
        stack.callback(made.close)
        yield made


def automation(name: str) -> AutomationCore:
    """One of those that `fem apply` makes."""
    declared = yaml.safe_load((ROOT / "deployments/prefect/federation.yaml").read_text())["automations"][name]
    return AutomationCore.model_validate({"name": name, **declared})


def resident(process: int) -> int:
    """Bytes of memory that a process holds."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) * 1024
