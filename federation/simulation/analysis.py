"""Tables of what happened: by round, and one line for each variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from federation.simulation.simulator import Status

#: Variants by name -> their repetitions.
Outcome = Mapping[str, Sequence[Status]]


def rounds(statuses: Sequence[Status]) -> pd.DataFrame:
    """A row for each round of each repetition; times are seconds, energy is in mJ."""
    rows = []
    for status in statuses:
        clock = 0.0
        for at in range(status.rounds):
            fit, evaluation = status.fit, status.eval
            clock += fit.times[at] + evaluation.times[at]
            rows.append({
                "repetition": status.repetition, "round": at, "available": int(status.devices.availability[at].sum()),
                "selected": int(fit.selected[at].sum()), "answered": int(fit.answered[at].sum()),
                "metric": evaluation.agg_metric[at], "loss": evaluation.agg_loss[at], "fit_loss": fit.agg_loss[at],
                "time": fit.times[at] + evaluation.times[at], "clock": clock,
                "computation": fit.computation[at].max(), "communication": (fit.upload + fit.distribution)[at].max(),
                "energy": fit.energy[at].sum() + evaluation.energy[at].sum(),
                "network": float((fit.network_upload + fit.network_distribution)[at].sum()),
                "resources": fit.resources[at].sum(),
            })  # fmt: skip
    return pd.DataFrame(rows)


def fairness(status: Status) -> float:
    """Standard deviation of how often devices were selected to train: 0 is fair."""
    return float(status.fit.selected[: status.rounds].sum(0).std())


def summary(outcome: Outcome) -> pd.DataFrame:
    """A row for each variant: means over its repetitions, and the standard deviation of the metric."""
    rows = []
    for name, statuses in outcome.items():
        frame = rounds(statuses)
        last = frame.groupby("repetition").last()
        total = frame.groupby("repetition")[["energy", "network", "resources"]].sum()
        rows.append({
            "variant": name, "repetitions": len(statuses), "rounds": np.mean([status.rounds for status in statuses]),
            "metric": last["metric"].mean(), "metric_std": last["metric"].std(ddof=0), "best_metric": frame.groupby("repetition")["metric"].max().mean(),
            "loss": last["loss"].mean(), "time": last["clock"].mean(), **total.mean().to_dict(),
            "answered": frame["answered"].sum() / max(frame["selected"].sum(), 1), "fairness": np.mean([fairness(status) for status in statuses]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def by_round(statuses: Sequence[Status]) -> pd.DataFrame:
    """Means over the repetitions of what `rounds` has, by round."""
    return rounds(statuses).groupby("round").mean(numeric_only=True).drop(columns="repetition")


def by_device(statuses: Sequence[Status]) -> pd.DataFrame:
    """Over all repetitions, by device: how often selected, seconds, energy, last loss; and examples of the first repetition."""
    first = statuses[0]

    def over_all(name: str) -> np.ndarray:
        return np.asarray(sum(getattr(status.fit, name)[: status.rounds].sum(0) for status in statuses))

    return pd.DataFrame({
        "selected": over_all("selected"), "answered": over_all("answered"), "computation": over_all("computation"),
        "communication": over_all("upload") + over_all("distribution"), "energy": over_all("energy"),
        "examples": first.devices.local_data_sizes, "classes": (first.local_data_stats > 0).sum(1), "ips": first.devices.ips,
    })  # fmt: skip
