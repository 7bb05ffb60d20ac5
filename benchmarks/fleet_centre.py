"""`python -m benchmarks.fleet_centre flow|bare REPEAT NODE...`: the centre of the benchmark `fleet`; prints seconds and peak memory as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path

from benchmarks.harness import memory
from federation import execution, following
from federation.catalogue.find import find_tool
from federation.centre import Centre
from federation.settings import load
from federation.tool_request import ToolRequest

TOOL = """\
name: nothing
version: "1"
tasks:
  - id: main
    command: {base: ["true"]}
"""


async def bare(centre: Centre, asked: ToolRequest) -> str:
    """The steps of the flow, without Prefect."""
    tool = find_tool(centre.records, asked.tool)
    job = execution.open_job(centre, tool, asked, uuid.uuid4().hex)
    [role] = job.roles
    submissions = await asyncio.to_thread(execution.stage_in, centre, job, role)
    await asyncio.to_thread(centre.dispatch_all, following.first_of(job, submissions), job.execution)
    async for _ in following.follow(centre, job, role, submissions):
        pass
    results = await asyncio.to_thread(execution.stage_out, centre, job, role)
    return execution.close(centre, job, results).state


async def by_flow(asked: ToolRequest) -> str:
    """The flow."""
    from flows.execute_tool import execute_tool

    state = await execute_tool(tool=asked.tool, nodes=list(asked.nodes), return_state=True)  # type: ignore[call-overload]
    return str(state.name)


def main() -> None:
    """Everything is imported and warm before the clock starts."""
    way, repeat, *nodes = sys.argv[1:]
    if way == "flow":
        from flows import connection

        centre = connection.centre()
    else:
        centre = Centre.open(load())
    centre.ensure_relay()
    with tempfile.TemporaryDirectory(prefix="fem-bench-") as folder:
        file = Path(folder) / "nothing.yaml"
        file.write_text(TOOL)

        async def measured(of: list[str]) -> float:
            asked = ToolRequest(tool=str(file), nodes=tuple(of))
            began = time.perf_counter()
            state = await (by_flow(asked) if way == "flow" else bare(centre, asked))
            seconds = time.perf_counter() - began
            if state not in ("Succeeded",):
                raise RuntimeError(f"the execution ended {state}")
            return seconds

        async def all_of_it() -> list[float]:
            await measured(nodes[:2])
            return [await measured(nodes) for _ in range(int(repeat))]

        seconds = asyncio.run(all_of_it())
    sys.stdout.write(json.dumps({"seconds": seconds, "memory": memory(os.getpid(), "VmHWM")}) + "\n")
    sys.stdout.flush()
    centre.close()


if __name__ == "__main__":
    main()
