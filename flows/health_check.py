"""The nodes' health as a Prefect flow, to be scheduled: each node is asked, and what is to be mended stands in a table."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.client.schemas.objects import State as PrefectState
from prefect.states import Completed, Failed
from pydantic import Field

from fdn_worker.errors import SystemFault
from federation.health import NodeHealth, Summary, check, summarise
from flows import connection
from flows.report import cell, human

#: Their histories in Prefect: each run adds to them.
TABLE, REPORT = "health-of-nodes", "health"


class NobodyAnswered(SystemFault):
    """Not one node answered: broker or relay are more likely at fault than all of them."""

    code = "nobody-answered"


@flow(name="health-check", persist_result=False)
async def health_check(
    nodes: list[str] = [],  # noqa: B006 (never changed; Prefect's form is at its best with plain types)
    images: list[str] = [],  # noqa: B006
    user: str = "",
    seconds: Annotated[float, Field(gt=0, le=300)] = 10.0,
) -> list[NodeHealth] | PrefectState[Any]:
    """Ask nodes how they are. The state is named Healthy, Degraded, or Failed when none answered.

    Args:
        nodes: Ids of the nodes; empty asks all.
        images: Images that are to be at each of them.
        user: On whose behalf.
        seconds: How long they have to answer.
    """
    found = await check(connection.centre(), nodes, images=images, user=user, seconds=seconds)
    summary = summarise(found)
    get_run_logger().info("%s: %s", summary.name, summary.message)
    await acreate_table_artifact([row(one) for one in found], key=TABLE, description=summary.message)
    await acreate_markdown_artifact(markdown(found, summary), key=REPORT, description=summary.message)
    if summary.name == "Failed":
        return Failed(message=summary.message, data=NobodyAnswered(summary.message, remedy="see `fem nodes`, and whether a relay runs"))
    return Completed(name=summary.name, message=summary.message, data=found)


def row(one: NodeHealth) -> dict[str, Any]:
    """A node as a row of the table."""
    said = one.health
    return {
        "node": one.node, "presence": one.presence, "healthy": one.healthy, "problems": "; ".join(one.problems),
        "round trip (s)": None if one.seconds is None else round(one.seconds, 3),
        "clock (s)": None if one.offset is None else round(one.offset, 3),
        "version": said.worker_version if said else "", "launchers": _pairs(said.launchers) if said else "",
        "CPUs": said.cpus if said else None, "GPUs": said.gpus if said else None, "memory": human(said.memory) if said else "",
        "disk free": human(said.disk_free) if said else "", "images": len(said.images) if said else None,
        "certificate": f"{said.certificate_expires:%Y-%m-%d}" if said and said.certificate_expires else "",
    }  # fmt: skip


def _pairs(facts: dict[str, str]) -> str:
    return ", ".join(f"{name} {fact}" for name, fact in sorted(facts.items()))


def markdown(found: list[NodeHealth], summary: Summary) -> str:
    """The summary, and what is to be mended at which node."""
    lines = [f"# {summary.name}", "", cell(summary.message), ""]
    ill = [one for one in found if one.problems]
    if ill:
        lines += ["| node | to be mended |", "|---|---|", *(f"| {one.node} | {'; '.join(map(cell, one.problems))} |" for one in ill), ""]
    return "\n".join(lines)
