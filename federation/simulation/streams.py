"""Random streams: one seed, and a stream of its own for each purpose, so that nothing depends on who draws first."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

Rng = np.random.Generator


class Purpose(IntEnum):
    """What a stream is drawn for. The numbers are part of every result: never change one."""

    DEVICES = 0
    PARTITION = 1
    LABELS = 2
    WEIGHTS = 3
    SELECTION = 4
    UPDATE = 5
    TRAINING = 6
    EVALUATION = 7
    DATA = 8


def stream(seed: int, purpose: Purpose, *numbers: int) -> Rng:
    """The stream of a purpose; `numbers` are such as the repetition, the round and the device."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose, *numbers))))
