"""What is remembered of one client between rounds, for SCAFFOLD and FedDyn. It is kept where the client's updates are added, as a file for each, so
that the client's own program keeps nothing: it only steps by

    gradient + correction/NAME (where the model file has it) + proximal (y - x)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from federation.learning.aggregator import Corrected
from federation.learning.models import Array, ModelFile, ModelInfo, ModelWriter, Tensor
from federation.learning.rounds import learned, recall

PREFIX = "correction/"


def model_for_client(aggregator: Corrected, base: ModelFile, state: ModelFile | None, own: ModelFile | None, out: Path) -> None:
    """The model file that this client is sent: the global model, and a tensor `correction/NAME` of the same dtype for each NAME of it that is learned.

    `state`: what the server remembers; `own`: of this client. Both are None at first.
    """
    tensors = base.tensors | {PREFIX + key: tensor for key, tensor in learned(base).items()}
    with ModelWriter(out, tensors, base.info.metadata()) as writer:
        for key, tensor in base.tensors.items():
            for part in tensor.blocks():
                writer.write(key, part.start, base.wide(key, part))
                if tensor.floating:
                    correction = aggregator.correction(_own(own, key, part), recall(aggregator, state, key, part))
                    writer.write(PREFIX + key, part.start, correction)


def remember(aggregator: Corrected, base: ModelFile, state: ModelFile | None, own: ModelFile | None, update: ModelFile, out: Path) -> None:
    """Write what is remembered of a client after its update was added; `out` may be the file of `own`.

    To be called for a round whose model is kept: once, or again with the same `own`.
    """
    tensors = {key: Tensor(np.dtype("<f8"), tensor.shape) for key, tensor in learned(base).items()}
    with ModelWriter(out, tensors, ModelInfo().metadata() | {"kind": "client-state", "aggregator": aggregator.name}) as writer:
        for key, tensor in tensors.items():
            for part in tensor.blocks():
                memory = recall(aggregator, state, key, part)
                before, after = base.wide(key, part), update.wide(key, part)
                writer.write(key, part.start, aggregator.remember(_own(own, key, part), memory, before, after, update.info.steps))


def _own(own: ModelFile | None, key: str, part: slice) -> Array:
    return np.zeros(part.stop - part.start) if own is None else own.wide(key, part)
