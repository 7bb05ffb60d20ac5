"""The health of the nodes: each is asked over its control queue, and what it says is judged."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from fdn_worker.protocol import Answer, Health, now
from federation.catalogue.find import find_node
from federation.centre import Centre
from federation.inquiry import PATIENCE, ask
from federation.presence import NodePresence, presence

#: Seconds by which a node's clock may differ from the centre's: orders and their deadlines are dated.
MOST_OFFSET = 5.0
#: Time before its end in which a certificate is to be renewed.
RENEWAL = timedelta(days=30)
#: Bytes of disk below which a node is nearly full.
LEAST_DISK = 5 * 1024**3
#: Nodes that a summary names.
NAMED = 10


class NodeHealth(BaseModel):
    """What was found of one node. It is healthy when nothing has to be mended there."""

    model_config = ConfigDict(frozen=True)

    node: str
    #: connected, suspect or gone, as its heartbeats say.
    presence: str
    answered: bool = False
    #: From the question to the answer.
    seconds: float | None = None
    #: How far its clock is ahead of the centre's, in seconds, give or take half of `seconds`.
    offset: float | None = None
    #: What is to be mended, in plain words.
    problems: tuple[str, ...] = ()
    health: Health | None = None

    @property
    def healthy(self) -> bool:
        return self.answered and not self.problems


class Summary(BaseModel):
    """All of them in a word: Healthy, Degraded, or Failed when none answered."""

    model_config = ConfigDict(frozen=True)

    name: str
    message: str


async def check(
    centre: Centre, nodes: Sequence[str] = (), *, images: Sequence[str] = (), user: str = "", seconds: float = PATIENCE
) -> list[NodeHealth]:
    """Ask these nodes, or all; also those that look gone: while no relay ran, nobody heard them. `images` are to be at each."""
    present = {node.name: node for node in presence(centre.records)}
    wanted = list(dict.fromkeys(find_node(centre.records, name) for name in nodes)) or sorted(present)
    began, asked, came = time.monotonic(), now(), dict[str, float]()

    def heard(answer: Answer) -> None:
        came.setdefault(answer.node, time.monotonic() - began)

    answers = await ask(centre, wanted, "health", seconds=seconds, heard=heard, user=user)
    return [_judged(present[node], answers.get(node), asked, came, seconds, images) for node in wanted]


def summarise(found: Sequence[NodeHealth]) -> Summary:
    """Such as 2/3 healthy: site-b gone."""
    ill = [one for one in found if not one.healthy]
    told = "; ".join(f"{one.node} {one.problems[0]}" for one in ill[:NAMED]) + f"; and {len(ill) - NAMED} more" * (len(ill) > NAMED)
    message = f"{len(found) - len(ill)}/{len(found)} healthy" + (f": {told}" if ill else "")
    if not any(one.answered for one in found):
        return Summary(name="Failed", message=f"no node answered ({message})" if found else "no node is enrolled")
    return Summary(name="Degraded" if ill else "Healthy", message=message)


def _judged(
    present: NodePresence, answer: Answer | None, asked: datetime, came: Mapping[str, float], seconds: float, images: Sequence[str]
) -> NodeHealth:
    if answer is None:
        heard = f"{present.last_seen:%Y-%m-%d %H:%M} UTC" if present.last_seen else "never"
        problem = (
            f"gone (last heard: {heard})" if present.presence == "gone" else f"{present.presence}, but did not answer in {seconds:.0f} s"
        )
        return NodeHealth(node=present.name, presence=present.presence, problems=(problem,))
    took, said = came[answer.node], answer.health
    offset = (said.clock - asked).total_seconds() - took / 2 if said else None
    problems = [answer.refused.message] if answer.refused else []
    if not answer.accepting:
        problems.append("takes no orders at present")
    if said is not None:
        problems += [*said.problems, *_seen(said, asked, images)]
    if offset is not None and abs(offset) - took / 2 > MOST_OFFSET:
        problems.append(f"its clock is {abs(offset):.0f} s {'ahead' if offset > 0 else 'behind'}")
    return NodeHealth(
        node=answer.node, presence=present.presence, answered=True, seconds=took, offset=offset, problems=tuple(problems), health=said
    )  # fmt: skip


def _seen(said: Health, at: datetime, images: Sequence[str]) -> list[str]:
    """What the centre makes of a node's facts."""
    problems = []
    if said.certificate_expires is not None and said.certificate_expires - at < RENEWAL:
        left = said.certificate_expires - at
        problems.append("its certificate has expired" if left < timedelta() else f"its certificate expires in {left.days} days")
    if said.disk_free < LEAST_DISK:
        problems.append(f"{said.disk_free / 1024**3:.1f} GiB of disk left")
    here = {image.name for image in said.images}
    return problems + [f"image {image} is missing" for image in images if image not in here]
