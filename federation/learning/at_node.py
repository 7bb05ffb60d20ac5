"""What runs at a node for the federation itself, and not for a client package: `python3 learning.pyz COMMAND INPUTS SANDBOX`.

`fold` is a combiner's task. It finds the global model, `aggregator.json`, and what it is to add up, one at a time and in memory of the sums alone:
`partials/NAME.safetensors` and `updates/CLIENT.safetensors`. It leaves the sum, `partial.safetensors`, and `report.json`: what each update says of
itself, and why those were refused that were.

`keys`, `shares`, `masked` and `reveal` are a client's four steps of a secure sum (secure_sum.py). Its secrets, and the update that training has left,
stay in its sandbox, which outlives these tasks; with the last one they go. What each is given and leaves is JSON, but for the masked vector.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from fdn_worker.errors import FdnError
from federation.learning.aggregator import Linear, load
from federation.learning.models import ModelFile, ModelInfo, ModelRefused
from federation.learning.rounds import StreamingRound

#: Names of inputs, below $INPUT_PATH, and of what is left, below the sandbox.
MODEL, AGGREGATOR, PARTIALS, UPDATES = "model.safetensors", "aggregator.json", "partials", "updates"
PARTIAL, REPORT = "partial.safetensors", "report.json"
#: What a secure sum is asked for, and what stays in a client's sandbox; UPDATE is what training leaves.
SECURE, SECRETS, UPDATE, MASKED = "secure.json", "secure-state.json", "update.safetensors", "masked.bin"
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


def keys(inputs: Path, sandbox: Path) -> None:
    """Make the round's secrets, and publish the keys."""
    from federation.learning.secure_sum import SecureClient

    asked = json.loads((inputs / SECURE).read_text(encoding="utf-8"))
    if (sandbox / SECRETS).exists():
        raise FdnError("this client has published its keys already", code="secure-sum")
    client = SecureClient(os.environ["NODE_NAME"], asked["threshold"], bytes.fromhex(asked["round"]))
    made = client.keys()
    _keep(client.state(), sandbox)
    _leave(sandbox, "keys", [made.masks.hex(), made.seals.hex()])


def shares(inputs: Path, sandbox: Path) -> None:
    """Seal a share of the secrets for each peer."""
    from federation.learning.secure_sum import Keys, SecureClient

    client = SecureClient.restore((sandbox / SECRETS).read_text(encoding="utf-8"))
    peers = {name: Keys(bytes.fromhex(masks), bytes.fromhex(seals)) for name, (masks, seals) in _given(inputs, "shares").items()}
    sealed = client.shares(peers)
    _keep(client.state(), sandbox)
    _leave(sandbox, "shares", {receiver: share.hex() for receiver, share in sealed.items()})


def masked(inputs: Path, sandbox: Path) -> None:
    """The partial sum of the own update alone, under all masks."""
    from federation.learning.secure_partial import agreed_totals, to_words
    from federation.learning.secure_sum import SecureClient

    asked = json.loads((inputs / SECURE).read_text(encoding="utf-8"))
    client = SecureClient.restore((sandbox / SECRETS).read_text(encoding="utf-8"))
    sealed = {sender: bytes.fromhex(share) for sender, share in _given(inputs, "masked").items()}
    round, update = begun(inputs), ModelFile(sandbox / UPDATE, name=client.name)
    metrics = {name: value for name, value in update.info.metrics.items() if name in asked["metrics"]}
    update.info = update.info.model_copy(update={"metrics": metrics})
    round.add(update)
    round.partial(sandbox / PARTIAL)
    words = to_words(ModelFile(sandbox / PARTIAL), agreed_totals(round.aggregator, asked["metrics"]), asked["bits"], len(sealed))
    hidden = client.masked(words, sealed)
    _keep(client.state(), sandbox)
    hidden.astype("<u8").tofile(sandbox / MASKED)


def reveal(inputs: Path, sandbox: Path) -> None:
    """Open the shares that take the masks off the sum; of each client one of its two secrets."""
    from federation.learning.secure_sum import SecureClient

    client = SecureClient.restore((sandbox / SECRETS).read_text(encoding="utf-8"))
    answer = client.reveal(_given(inputs, "reveal"))
    # Before the answer goes out: a second list would ask for the other secrets.
    for name in (SECRETS, UPDATE, PARTIAL, MASKED):
        (sandbox / name).unlink()
    _leave(sandbox, "reveal", {"seeds": {name: hex(share) for name, share in answer.seeds.items()},
                               "masks": {name: hex(share) for name, share in answer.masks.items()}})  # fmt: skip


def _given(inputs: Path, step: str) -> Any:
    return json.loads((inputs / given(step)).read_text(encoding="utf-8"))


def _keep(state: str, sandbox: Path) -> None:
    """Whole or as it was, and for nobody else to read."""
    new = sandbox / f"{SECRETS}.new"
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(state)
        file.flush()
        os.fsync(file.fileno())
    new.replace(sandbox / SECRETS)


def _leave(sandbox: Path, step: str, answer: object) -> None:
    (sandbox / answered(step)).write_text(json.dumps(answer), encoding="utf-8")


def given(step: str) -> str:
    """Name of the input that a step of the secure sum is told by what the others said before."""
    return f"{step}-given.json"


def answered(step: str) -> str:
    """Name of what it leaves."""
    return f"{step}.json"


COMMANDS = {"fold": fold, "keys": keys, "shares": shares, "masked": masked, "reveal": reveal}


def main() -> None:
    command, inputs, sandbox = sys.argv[1:]
    try:
        COMMANDS[command](Path(inputs), Path(sandbox))
    except FdnError as error:
        sys.exit(f"{command}: {error}")
