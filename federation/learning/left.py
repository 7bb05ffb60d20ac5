"""What a client's command has left, checked against its manifest, and the metrics of a validation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from fdn_worker.errors import FdnError, SystemFault
from fdn_worker.protocol import State
from fdn_worker.protocol.manifest import OUTPUTS as BELOW
from federation.centre import Centre
from federation.learning.phases import OUTPUTS, Ended
from federation.results import OutputFile, describe

#: Bytes of a metrics.json at most.
LARGEST = 1024**2
#: What a metrics.json calls the number of examples that its means are of.
EXAMPLES = "examples"


def left(centre: Centre, ended: Ended, name: str = "") -> tuple[OutputFile | None, str]:
    """The file that the command was to leave, or another one by its name; or why there is none, "" where none was to leave.

    A fault of the store that may pass is raised.
    """
    if ended.state is not State.SUCCEEDED:
        return None, f"{ended.state}" + (f" ({ended.reason.code}): {ended.reason.message}" if ended.reason else "")
    if not ended.phase.job.tool.task(ended.phase.entry).outputs:
        return None, ""
    name = name or OUTPUTS[ended.phase.entry]
    try:
        result = describe(centre, ended.submission)
    except FdnError as error:
        if isinstance(error, SystemFault) and error.retryable:
            raise
        return None, str(error)
    found = next((file for file in result.files if file.path == BELOW + name), None)
    return found, "" if found else f"its {name} did not leave the site"


def metrics(centre: Centre, file: OutputFile) -> dict[str, float]:
    """The numbers of a metrics.json. ValueError says what else stands there."""
    if file.size > LARGEST:
        raise ValueError(f"{file.size:,} bytes are no metrics")
    found = json.loads(b"".join(centre.store.get(file.key)))
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name}: {str(value)[:80]!r} is no finite number")
    return {name: float(value) for name, value in found.items()}


def means(told: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Of each metric, weighted by the examples that a client tells of, over the clients that have it."""
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    for of_client in told.values():
        weight = max(0.0, of_client.get(EXAMPLES, 1.0))
        for name in of_client.keys() - {EXAMPLES}:
            sums[name] = sums.get(name, 0.0) + weight * of_client[name]
            weights[name] = weights.get(name, 0.0) + weight
    return {name: sums[name] / weight for name, weight in sorted(weights.items()) if weight}
