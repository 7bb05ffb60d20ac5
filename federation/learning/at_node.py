"""What runs at a node for the federation itself, and not for a client package: `python3 learning.pyz COMMAND INPUTS SANDBOX`.

`fold` is a combiner's task. It finds the global model, `aggregator.json`, and what it is to add up, one at a time and in memory of the sums alone:
`partials/NAME.safetensors` and `updates/CLIENT.safetensors`. It leaves the sum, `partial.safetensors`, and `report.json`: what each update says of
itself, and why those were refused that were.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from fdn_worker.errors import FdnError
from federation.learning.aggregator import Linear, load
from federation.learning.models import ModelFile, ModelInfo, ModelRefused
from federation.learning.rounds import StreamingRound

#: Names of inputs, below $INPUT_PATH, and of what is left, below the sandbox.
MODEL, AGGREGATOR, PARTIALS, UPDATES = "model.safetensors", "aggregator.json", "partials", "updates"
PARTIAL, REPORT = "partial.safetensors", "report.json"
ENDING = ".safetensors"


class Report(BaseModel):
    """What a combiner tells of its clients' updates."""

    model_config = ConfigDict(frozen=True)

    told: dict[str, ModelInfo] = {}
    #: Client -> why its update is not in the sum.
    refused: dict[str, str] = {}


def begun(inputs: Path) -> StreamingRound:
    """A round of the aggregator and the model that the task was given."""
    asked = json.loads((inputs / AGGREGATOR).read_text(encoding="utf-8"))
    aggregator = load(asked["name"], asked["arguments"])
    assert isinstance(aggregator, Linear)
    return StreamingRound(aggregator, ModelFile(inputs / MODEL))


def fold(inputs: Path, sandbox: Path) -> None:
    """A combiner's task."""
    round, told, refused = begun(inputs), dict[str, ModelInfo](), dict[str, str]()
    for path in sorted((inputs / PARTIALS).glob(f"*{ENDING}")):
        round.add_partial(ModelFile(path, name=path.name.removesuffix(ENDING)))
    for path in sorted((inputs / UPDATES).glob(f"*{ENDING}")):
        client = path.name.removesuffix(ENDING)
        try:
            update = ModelFile(path, name=client)
            round.add(update)
            told[client] = update.info
        except ModelRefused as error:
            refused[client] = str(error)
    round.partial(sandbox / PARTIAL)
    (sandbox / REPORT).write_text(Report(told=told, refused=refused).model_dump_json(exclude_defaults=True), encoding="utf-8")


COMMANDS = {"fold": fold}


def main() -> None:
    command, inputs, sandbox = sys.argv[1:]
    try:
        COMMANDS[command](Path(inputs), Path(sandbox))
    except FdnError as error:
        sys.exit(f"{command}: {error}")
