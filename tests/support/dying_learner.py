"""A process that runs a session to its end, and kills itself (SIGKILL) at a point that a test names.

`python -m tests.support.dying_learner SESSION WHEN CALL NUMBER`: WHEN and NUMBER as in dying_worker, CALL one of CALLS. The environment says
which federation.
"""

from __future__ import annotations

import asyncio
import sys

from federation.centre import Centre
from federation.learning.running import Learner
from federation.settings import load
from tests.support import dying_worker
from tests.support.dying_worker import arm


def _nothing(*_: object, **__: object) -> str:
    return ""


#: Steps of a session's round, in their order.
CALLS = {
    "order": (("storage.records:Records",), "add_attempts", _nothing),
    "send": (("federation.centre:Centre",), "dispatch_all", _nothing),
    "fold": (("federation.learning.folding:CentreFolding",), "_take", _nothing),
    "remember": (("federation.learning.inputs:Inputs",), "remember", _nothing),
    "keep": (("federation.learning.trail:Trail",), "keep", _nothing),
    "close": (("storage.learning:Learning",), "close_round", _nothing),
}


async def run(centre: Centre, session: str) -> None:
    """All rounds."""
    async with Learner(centre, centre.records.learning.find_session(session)) as learner:
        await learner.seed()
        while (number := await learner.next()) is not None:
            await learner.train(number)
            await learner.validate(number)
            await learner.conclude(number)


def main() -> None:
    session, when, call, number = sys.argv[1:]
    dying_worker.CALLS |= CALLS
    arm(when, call, "*", int(number))
    asyncio.run(run(Centre.open(load()), session))


if __name__ == "__main__":
    main()
