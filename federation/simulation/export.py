"""What happened, as files: JSON with the structure that the simulator's users know, and a table for Parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fdn_worker.errors import SettingsError
from federation.simulation.configuration import Configuration
from federation.simulation.history import History
from federation.simulation.simulator import Status


def document(configuration: Configuration, statuses: Sequence[Status]) -> dict[str, Any]:
    """All repetitions and the configuration, as JSON knows it: NaN is null."""
    return {"config": configuration.model_dump(mode="json"), "status": [_status(configuration, status) for status in statuses]}


def _status(configuration: Configuration, status: Status) -> dict[str, Any]:
    drawn, rounds, algorithms = status.devices, status.rounds, configuration.algorithms
    return {
        "repetition": status.repetition,
        "rounds": rounds,
        "stopped": status.stopped,
        "con": {
            "devs": {
                "availability": drawn.availability[:rounds].astype(int).tolist(),
                "failures": drawn.failures[:rounds].astype(int).tolist(),
                "ips": drawn.ips.tolist(),
                "energy": drawn.energy.tolist(),
                "net_speed": drawn.net_speed[:rounds].tolist(),
                "local_data_sizes": drawn.local_data_sizes.tolist(),
                "local_data_stats": status.local_data_stats.tolist(),
            },
            "model": {"tot_weights": len(status.weights)},
        },
        "var": {
            "fit": _phase(status.fit, rounds, algorithms.fit.params.model_dump()),
            "eval": _phase(status.eval, rounds, algorithms.eval.params.model_dump()),
        },
    }


def _phase(history: History, rounds: int, params: dict[str, Any]) -> dict[str, Any]:
    def values(name: str) -> list[Any]:
        found: np.ndarray = getattr(history, name)[:rounds]
        plain = (found.astype(int) if found.dtype == bool else found).astype(object)
        plain[np.isnan(found)] = None
        values: list[Any] = plain.tolist()
        return values

    knobs = ("epochs", "batch_size", "num_examples")
    return {
        "devs": {"selected": values("selected")},
        "upd_opt_configs": {
            "global": {name: [params[name]] * rounds for name in knobs},
            "local": {name: values(name) for name in knobs},
        },
        "times": {
            "computation": values("computation"),
            "communication_upload": values("upload"),
            "communication_distribution": values("distribution"),
            "round": values("times"),
        },
        "consumption": {name: values(name) for name in ("resources", "network_upload", "network_distribution", "energy")},
        "model_metrics": {name: values(name) for name in ("metric", "loss", "agg_metric", "agg_loss")},
    }


def table(statuses: Sequence[Status]) -> pd.DataFrame:
    """A row for each device that was selected in a phase of a round."""
    frames = []
    for status in statuses:
        for phase, history in (("fit", status.fit), ("eval", status.eval)):
            rounds, devices = np.nonzero(history.selected[: status.rounds])
            names = (
                "answered", "epochs", "batch_size", "num_examples", "computation", "upload", "distribution", "resources",
                "network_upload", "network_distribution", "energy", "metric", "loss",
            )  # fmt: skip
            columns = {name: getattr(history, name)[rounds, devices] for name in names}
            frames.append(pd.DataFrame({"repetition": status.repetition, "phase": phase, "round": rounds, "device": devices, **columns}))
    return pd.concat(frames, ignore_index=True)


def check() -> None:
    """SettingsError where no Parquet can be written: better before an hour of simulation than after it."""
    if find_spec("pyarrow") is None:
        raise SettingsError("Parquet files need pyarrow", remedy="install the extra `learning`")


def write(configuration: Configuration, statuses: Sequence[Status], folder: Path) -> list[Path]:
    """`output_file`, and the same name with .parquet, in the folder; which are returned."""
    json_file = folder / configuration.simulation.output_file
    parquet_file = json_file.with_suffix(".parquet")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(document(configuration, statuses), allow_nan=False), encoding="utf-8")
        table(statuses).to_parquet(parquet_file, index=False)
    except OSError as error:
        raise SettingsError(f"{folder}: {error.strerror or error}", remedy="name an output folder that can be written") from error
    return [json_file, parquet_file]
