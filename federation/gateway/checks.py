"""Health checks shared: whoever asks within a few seconds gets the answer that the first one gets, so polling dashboards cost a node no more than one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from federation.centre import Centre
from federation.health import NodeHealth, check

#: Seconds for which a question stands.
FRESH = 5.0


class _Asked(NamedTuple):
    since: float
    answers: asyncio.Task[list[NodeHealth]]


class Checks:
    """Of one event loop."""

    def __init__(self, centre: Centre) -> None:
        self._centre = centre
        self._asked: dict[str, _Asked] = {}

    async def of(self, nodes: Sequence[str], *, user: str) -> list[NodeHealth]:
        """How these nodes, given by their ids, are; `user` counts where they are asked anew."""
        moment = asyncio.get_running_loop().time()
        due = [node for node in nodes if not self._stands(node, moment)]
        if due:
            answers = asyncio.create_task(check(self._centre, due, user=user))
            self._asked |= dict.fromkeys(due, _Asked(moment, answers))
        found: dict[str, NodeHealth] = {}
        for answers in {self._asked[node].answers for node in nodes}:
            # One that goes away takes no answer from the others.
            found |= {one.node: one for one in await asyncio.shield(answers)}
        return [found[node] for node in nodes]

    def _stands(self, node: str, moment: float) -> bool:
        """A fault does not: the next one asks anew."""
        asked = self._asked.get(node)
        if asked is None or asked.since + FRESH < moment:
            return False
        answers = asked.answers
        return not answers.done() or (not answers.cancelled() and answers.exception() is None)
