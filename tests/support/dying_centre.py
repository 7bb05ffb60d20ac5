"""A centre that submits one task and kills itself (SIGKILL) at a point that a test names.

`python -m tests.support.dying_centre REQUEST KEY WHEN CALL LABEL NUMBER`: REQUEST is a TaskRequest as JSON, KEY its idempotency
key, the rest as in dying_worker. The environment says which federation.
"""

from __future__ import annotations

import sys

from federation.centre import Centre
from federation.request import TaskRequest
from federation.settings import load
from tests.support.dying_worker import arm


def main() -> None:
    request, key, when, call, label, number = sys.argv[1:]
    arm(when, call, label, int(number))
    centre = Centre.open(load().model_copy(update={"relay": "service"}))
    centre.dispatch(centre.stage_in(TaskRequest.model_validate_json(request), key))


if __name__ == "__main__":
    main()
