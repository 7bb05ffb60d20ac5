"""`make demo`: three nodes, three parts of a real data set, one table. DEMO=real takes RabbitMQ, MinIO and Docker."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from examples.summary.data import COLUMNS, SITES, share_out
from examples.summary.page import write_page
from fdn_worker.errors import FdnError
from fdn_worker.protocol import State, TaskEvent
from federation.local import LocalFederation
from federation.results import TaskResult, download
from flows.server import prefect_server

ROOT = Path(__file__).resolve().parents[2]
SEED = ROOT / ".cache/prefect-seed.db"
SERVICES = Path(os.environ.get("FEM_SERVICES", ROOT / ".cache/services/services.json"))
SHOWN = {"SUCCEEDED": "green", "FAILED": "red", "REJECTED": "red", "LOST": "red"}

console = Console(highlight=False)


def federation(home: Path, real: bool) -> tuple[LocalFederation, dict[str, object]]:
    """The federation, and what the flow is told beyond node and data."""
    datasets = share_out(home / "data")
    task = Path(__file__).with_name("task.py")
    common: dict[str, object] = {"datasets": ["patients"], "inputs": [str(task)], "outputs": ["summary.json"], "memory": "256MiB"}
    if not real:
        command = [sys.executable, "$INPUT_PATH/task.py", "patients"]
        return LocalFederation(home, tuple(SITES), datasets), common | {"argv": command}
    services = json.loads(SERVICES.read_text())
    local = LocalFederation(
        home, tuple(SITES), datasets, broker_url=services["amqp_url"], store_url=f"{services['s3_url']}/fem-demo", launcher="docker",
        launcher_options={"docker_host": services["docker_host"], "pull_policy": "never"},
    )  # fmt: skip
    return local, common | {"argv": ["python3", "$INPUT_PATH/task.py", "patients"], "image": services["images"]["python"]}


def show(event: TaskEvent) -> None:
    """One line an event."""
    for line in event.lines:
        console.print(f"  [dim]{event.node:15} | {escape(line)}[/]")
    if event.state is not None:
        why = f" {escape(event.reason.message)}" if event.reason else ""
        console.print(f"  {event.at:%H:%M:%S} {event.node:15} [{SHOWN.get(event.state, 'blue')}]{event.state}[/]{why}")


async def run_all(arguments: dict[str, object]) -> list[TaskResult]:
    """The flow at the three nodes, side by side."""
    from flows.federated_task import federated_task

    async def at(index: int, node: str) -> TaskResult:
        # Prefect's SQLite takes its time when flow runs are made at the very same moment.
        await asyncio.sleep(index * 0.3)
        result: TaskResult = await federated_task(node=node, user="demo", tool="summary", **arguments)  # type: ignore[arg-type]
        return result

    return list(await asyncio.gather(*(at(index, node) for index, node in enumerate(SITES))))


def combine(sites: dict[str, dict[str, dict[str, float]]]) -> pd.DataFrame:
    """Patients, mean and standard deviation of each column: at each site, and over all of them from their sums alone."""
    rows = []
    everywhere = {name: {key: sum(site[name][key] for site in sites.values()) for key in ("count", "sum", "squares")} for name in COLUMNS}
    for place, columns in [*sites.items(), ("all sites", everywhere)]:
        row: dict[str, object] = {"site": place, "patients": int(columns[COLUMNS[0]]["count"])}
        for name in COLUMNS:
            count, total, squares = (columns[name][key] for key in ("count", "sum", "squares"))
            row[name] = total / count
            row[f"{name} sd"] = ((squares - total**2 / count) / (count - 1)) ** 0.5
        rows.append(row)
    return pd.DataFrame(rows).set_index("site")


def main() -> None:
    """Run the demo in a folder of its own, and leave one HTML page."""
    real = os.environ.get("DEMO") == "real"
    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="fem-demo-"))
    home.chmod(0o755)
    console.print(
        f"[bold]Three hospitals, one question.[/] {'RabbitMQ, MinIO, Docker' if real else 'Embedded: SQLite, folder, processes'}; in {home}"
    )
    try:
        local, arguments = federation(home, real)
        with prefect_server(home / "prefect", seed=SEED) as client, local:
            os.environ.update(
                client | local.environment() | {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": os.environ.get("DEMO_LOG", "CRITICAL")}
            )
            from flows import connection

            centre = connection.centre()
            local.wait_connected(centre)
            console.print(f"  {len(SITES)} nodes are connected, {time.monotonic() - began:.0f} s after the start")
            connection.watcher = show
            results = asyncio.run(run_all(arguments))
            files = {result.node: download(centre, result.outputs[0], home / "results" / result.node) for result in results}
            if real:
                clear(local, results)
            connection.close()
        assert all(result.state is State.SUCCEEDED for result in results)
        table = combine({node: json.loads(file.read_text()) for node, file in files.items()})
    except FdnError as error:
        sys.exit(f"demo: {error}")
    finally:
        shutil.rmtree(home)
    print_table(table)
    page = ROOT / ".demo" / "summary.html"
    write_page(page, table, results, COLUMNS)
    console.print(
        f"\nNo patient left a hospital: three files of sums did. The page: [bold]{page}[/]   ({time.monotonic() - began:.0f} s in all)"
    )


def clear(local: LocalFederation, results: list[TaskResult]) -> None:
    """Take the demo's queues and objects away from services that others use as well."""
    from federation.enrol import retire
    from flows import connection

    centre = connection.centre()
    for node in local.nodes:
        local.stop(node)
        retire(centre.broker, centre.records, node)
    for result in results:
        centre.store.delete([info.key for info in centre.store.list(f"executions/{result.execution}/")])


def print_table(frame: pd.DataFrame) -> None:
    """The combined table in the terminal: a row a column, mean and standard deviation a site."""
    # A site's name on two lines: five columns have to fit into eighty characters.
    sites = [Column(str(site).replace("-", "\n").replace(" ", "\n"), justify="right") for site in frame.index]
    table = Table("mean (sd)", *sites, box=None, header_style="bold", padding=(0, 1))
    table.add_row("patients", *(f"{row['patients']:.0f}" for _, row in frame.iterrows()))
    for name in COLUMNS:
        table.add_row(name, *(f"{row[name]:#.3g} ({row[f'{name} sd']:#.2g})" for _, row in frame.iterrows()))
    console.print()
    console.print(table)


if __name__ == "__main__":
    main()
