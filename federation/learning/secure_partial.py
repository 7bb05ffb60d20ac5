"""Partial sums as the vectors of a secure sum, and back: each client masks the partial sum of its own update alone, and what the server unmasks is the
partial sum of all. Clipping is done before, by the client.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from federation.learning.accumulator import Accumulator, PartialInfo
from federation.learning.aggregator import Linear
from federation.learning.models import ModelFile, ModelInfo
from federation.learning.rounds import told
from federation.learning.secure_sum import SecureSumFailed, Words, from_fixed, to_fixed


def agreed_totals(aggregator: Linear, metrics: Iterable[str]) -> list[str]:
    """Names of all that is added up of clients which tell these metrics, in an order that is the same for all."""
    info = ModelInfo(examples=1.0, steps=1.0, metrics=dict.fromkeys(metrics, 0.0))
    weights = aggregator.weights(info, "a client")
    return sorted({*aggregator.totals(info), *told(info), *weights, *(f"kept:{name}" for name in weights)})


def to_words(partial: ModelFile, totals: Sequence[str], bits: int, members: int) -> Words:
    """A partial sum in units of 2^-bits, for a sum over so many clients. `totals` are the same for all of them; one that it lacks is 0."""
    found = PartialInfo.model_validate(partial.metadata).totals
    if further := sorted(found.keys() - set(totals)):
        raise SecureSumFailed(
            f"{partial.name}: total {further[0]!r} is not agreed on", remedy="name all totals and metrics when the round begins"
        )
    values = [*(array.reshape(-1) for array in partial.load().values()), np.array([found.get(name, 0.0) for name in totals])]
    return to_fixed(np.concatenate(values), bits, members)


def from_words(
    words: Words, aggregator: Linear, base: ModelFile, totals: Sequence[str], bits: int, members: Iterable[str], out: Path
) -> None:
    """Write the partial sum that an unmasked vector is, for `StreamingRound.add_partial`."""
    whole = Accumulator(base.tensors, aggregator.sums, str(aggregator))
    values, wanted = from_fixed(words, bits), len(aggregator.sums) * sum(tensor.count for tensor in base.tensors.values()) + len(totals)
    if len(values) != wanted:
        raise SecureSumFailed(f"{len(values)} numbers where the sums of the model and its totals have {wanted}")
    place = 0
    for arrays in whole.sums.values():
        for array in arrays.values():
            array[:] = values[place : place + len(array)]
            place += len(array)
    whole.totals = dict(zip(totals, values[place:].tolist(), strict=True))
    whole.members = set(members)
    whole.save(out)
