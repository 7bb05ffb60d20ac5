"""Whole simulations in this process, and what is written of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from federation.simulation import analysis, export, sweep
from federation.simulation.algorithms import ALGORITHMS, Algorithm
from federation.simulation.configuration import Configuration, merged
from federation.simulation.errors import NoClient, SimulationError
from federation.simulation.executors import InProcess
from federation.simulation.selection import SELECTIONS, Round, Selection
from federation.simulation.simulator import Seen, States, Status, simulate
from federation.simulation.worker import Job, Result
from flows.cli import app

#: Small, and quick to learn.
BASE: dict[str, Any] = {
    "simulation": {"repetitions": 1, "num_rounds": 4},
    "data": {"dataset": "synthetic", "dataset_params": {"examples": 600, "features": 6, "spread": 0.5}, "num_examples_mean": 60},
    "devices": {"num": 10},
    "algorithms": {"fit": {"params": {"num_examples": 40}}, "eval": {"params": {"num_examples": 60}}},
    "workers": {"kind": "in-process", "chunk": 3},
}


def configured(**changes: Any) -> Configuration:
    return Configuration.model_validate(merged(BASE, changes))


def run(**changes: Any) -> Status:
    return simulate(configured(**changes))[0]


@pytest.mark.parametrize("name", ALGORITHMS.names())
def test_every_algorithm_learns(name: str) -> None:
    rate = {"lr": 0.1} if name == "scaffold" else {}
    status = run(algorithms={"federated_algorithm": name, "federated_algorithm_params": rate}, simulation={"num_rounds": 8})
    loss = status.eval.agg_loss
    assert loss[7] < loss[0]
    assert status.eval.agg_metric[7] > 0.8


def test_the_mean_of_equal_devices_is_training_without_a_federation() -> None:
    """One device that is always there: federated averaging of it is its own weights."""
    lone = run(devices={"num": 1, "p_available": 1, "p_fail": 0}, algorithms={"fit": {"params": {"n": 1}}, "eval": {"params": {"n": 1}}})
    assert lone.fit.answered[:, 0].all()
    assert lone.eval.agg_metric[-1] == lone.eval.metric[-1, 0]


def test_one_seed_one_result_to_the_last_bit() -> None:
    first, again, other = run(), run(), run(simulation={"seed": 4})
    assert first.weights.tobytes() == again.weights.tobytes() != other.weights.tobytes()
    assert first.fit.loss.tobytes() == again.fit.loss.tobytes()


def test_first_weights_are_drawn_or_zeros() -> None:
    """Where all devices fail, the first weights stay."""
    still = {"simulation": {"num_rounds": 1}, "devices": {"p_available": 1, "p_fail": 1}}
    assert run(**still).weights.any()
    assert not run(**merged(still, {"simulation": {"initializer": "zeros"}})).weights.any()


def test_the_learning_rate_is_that_of_the_optimizer() -> None:
    """From zeros and with one step of all examples, the change is the gradient times the rate."""
    one_step = {
        "simulation": {"num_rounds": 1, "initializer": "zeros"}, "devices": {"p_fail": 0},
        "algorithms": {"fit": {"params": {"epochs": 1, "batch_size": 40}}},
    }  # fmt: skip
    slow, fast = (
        run(**merged(one_step, {"algorithms": {"optimizer": "sgd", "optimizer_params": {"learning_rate": rate}}})).weights
        for rate in (0.1, 0.2)
    )
    assert np.allclose(fast, 2 * slow, rtol=1e-12)
    assert slow.any()


def test_one_by_one_comes_to_the_same() -> None:
    together, alone = run(), run(workers={"vectorised": False})
    assert together.weights == pytest.approx(alone.weights, rel=1e-9)


def test_only_the_available_are_selected_and_the_failing_give_nothing() -> None:
    status = run(devices={"num": 30, "p_available": 0.5, "p_fail": 0.4}, simulation={"num_rounds": 6})
    for history in (status.fit, status.eval):
        assert not (history.selected & ~status.devices.availability).any()
        assert np.array_equal(history.answered, history.selected & ~status.devices.failures)
        assert np.isnan(history.loss[~history.answered]).all()
        assert not history.energy[~history.selected].any()
        assert history.energy[history.selected].all()


def test_eval_has_its_own_k() -> None:
    """The original took that of fit."""
    status = run(devices={"p_available": 1}, algorithms={"fit": {"params": {"k": 0.2}}, "eval": {"params": {"k": 0.7}}})
    assert set(status.fit.selected.sum(1)) == {2}
    assert set(status.eval.selected.sum(1)) == {7}


def test_aggregated_figures_are_weighted_by_examples() -> None:
    status = run(algorithms={"fit": {"update": "uniform", "update_params": {"low": 5, "high": 40}}})
    fit = status.fit
    for at in range(status.rounds):
        who = fit.answered[at]
        assert fit.agg_loss[at] == pytest.approx(np.average(fit.loss[at, who], weights=fit.num_examples[at, who]))
    assert len(set(fit.num_examples[fit.selected].tolist())) > 3


def test_a_round_takes_as_long_as_its_slowest_device() -> None:
    status = run()
    fit = status.fit
    assert fit.times.tolist() == pytest.approx((fit.computation + fit.upload + fit.distribution).max(1).tolist())
    speed = status.devices.net_speed
    assert fit.upload[fit.selected] == pytest.approx(len(status.weights) / speed[fit.selected])


def test_scaffold_sends_twice_as_much() -> None:
    plain, twice = run(), run(algorithms={"federated_algorithm": "scaffold"})
    assert twice.fit.network_upload.sum() == 2 * plain.fit.network_upload.sum()
    assert twice.eval.network_upload.sum() == plain.eval.network_upload.sum()


@pytest.mark.parametrize(("stop", "why"), [({"metric": 0.3}, "metric"), ({"loss": 5.0}, "loss"), ({}, "rounds")])
def test_what_ends_a_repetition(stop: dict[str, float], why: str) -> None:
    status = run(simulation={"stop_conds": stop})
    assert (status.stopped, status.rounds) == (why, 4 if why == "rounds" else 1)


def test_who_watches_sees_every_round() -> None:
    seen: list[Seen] = []
    simulate(configured(simulation={"repetitions": 2}), seen.append)
    assert [(one.repetition, one.round) for one in seen] == [(number, at) for number in (0, 1) for at in range(4)]
    assert seen[3].clock > seen[2].clock > 0 < seen[4].clock < seen[3].clock


# Rounds without a client


def test_a_round_without_a_client_is_named() -> None:
    with pytest.raises(NoClient, match=r"repetition 0, round 0, fit: no client takes part \(0 of 10 devices are available, 0 asked for\)"):
        run(devices={"p_available": 0})
    with pytest.raises(NoClient, match=r"\(10 of 10 devices are available, 0 asked for\)"):
        run(devices={"p_available": 1}, algorithms={"fit": {"params": {"k": 0.05}}})


def test_or_skipped_where_that_is_said() -> None:
    status = run(devices={"p_available": 0}, simulation={"empty_rounds": "skip"})
    assert (status.rounds, status.fit.selected.sum(), status.stopped) == (4, 0, "rounds")
    assert np.isnan(status.eval.agg_metric).all()


def test_where_all_fail_the_model_stays() -> None:
    status = run(devices={"p_fail": 1})
    fresh = run(devices={"p_fail": 1}, simulation={"num_rounds": 1})
    assert status.fit.selected.any()
    assert status.weights.tobytes() == fresh.weights.tobytes()


def test_training_that_blows_up_is_named() -> None:
    huge = {"optimizer_params": {"learning_rate": 1e308}, "fit": {"params": {"epochs": 5}}}
    with (
        np.errstate(all="ignore"),
        pytest.raises(SimulationError, match=r"repetition 0, round \d: .* trained to weights or a loss that are no finite"),
    ):
        run(algorithms=huge)  # fmt: skip


# A trace


def test_a_trace_takes_the_place_of_the_draws_and_time_goes_on_to_it(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("device,start,end\n3,0,0.01\n5,100,100000\n6,100,100000\n")
    clocks: list[Seen] = []
    one = {"params": {"n": 1}}
    configuration = configured(devices={"trace": str(tmp_path / "trace.csv"), "p_fail": 0}, algorithms={"fit": one, "eval": one})
    [status] = simulate(configuration, clocks.append)
    assert status.fit.selected[0].nonzero()[0].tolist() == [3]
    assert all(set(row.nonzero()[0]) <= {5, 6} for row in status.fit.selected[1:])
    assert clocks[0].clock < 100 < clocks[1].clock
    assert status.devices.availability.sum(1).tolist() == [1, 2, 2, 2]


# Data


def test_dirichlet_shares_and_wrong_labels_reach_the_status() -> None:
    status = run(data={"non_iid_partitions": 0.3})
    assert status.local_data_stats.sum() == 480
    assert status.devices.local_data_sizes.tolist() == status.local_data_stats.sum(1).tolist()
    right, wrong = run(), run(data={"mislabelling_percentage": 90})
    assert wrong.eval.agg_loss[-1] > right.eval.agg_loss[-1]
    # A permutation moves labels within the device: how many there are of each stays.
    assert np.array_equal(right.local_data_stats, wrong.local_data_stats)


# State of devices


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    for registry in (ALGORITHMS, SELECTIONS):
        monkeypatch.setattr(registry, "_here", dict(registry._here))


@pytest.mark.usefixtures("registries")
def test_states_are_kept_between_rounds() -> None:
    """The original dropped FedDyn's."""
    kept: list[np.ndarray] = []

    @ALGORITHMS.register("feddyn-watched")
    class Watched(type(ALGORITHMS.make("feddyn", {}, ""))):  # type: ignore[misc]
        def correction(self, v: Any, w: Any, state: Any, shared: Any) -> Any:
            kept.append(np.array(state))
            return super().correction(v, w, state, shared)

    run(
        algorithms={"federated_algorithm": "feddyn-watched", "fit": {"params": {"k": 1.0, "epochs": 1}}},
        devices={"p_available": 1, "p_fail": 0},
    )
    assert not kept[0].any()
    assert kept[-1].any()


def test_states_lie_in_a_file_that_grows_with_who_took_part(tmp_path: Path) -> None:
    scaffold: Algorithm = ALGORITHMS.make("scaffold", {}, "")
    states = States(tmp_path, scaffold, 10_000, 1000)
    states.put(np.array([7, 9_999]), np.ones((2, 1000)))
    assert states.of(7).all()
    assert states.of(9_999).all()
    assert not states.of(8).any()
    assert (tmp_path / "states").stat().st_size == 80_000_000
    assert (tmp_path / "states").stat().st_blocks * 512 < 1_000_000


# Plug-ins


@pytest.mark.usefixtures("registries")
def test_a_selection_of_ones_own() -> None:
    @SELECTIONS.register("always-the-first")
    class First(Selection):
        count: int = 1

        def select(self, now: Round) -> np.ndarray:
            return now.available[: self.count]

    status = run(algorithms={"fit": {"selection": "always-the-first", "selection_params": {"count": 2}}})
    assert set(status.fit.selected.sum(1)) == {2}


def test_a_plug_in_of_an_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("of-a-package", "federation.simulation.selection:BestIps", "fem.simulation.selections")
    monkeypatch.setattr("federation.simulation.plugins.entry_points", lambda group: [point] if group == point.group else [])
    assert "of-a-package" in SELECTIONS.names()
    status = run(algorithms={"fit": {"selection": "of-a-package"}}, devices={"p_available": 1})
    assert status.fit.selected[0, status.devices.ips.argmax()]


@pytest.mark.parametrize(
    ("value", "said"),
    [("nowhere_at_all:X", "cannot be loaded: No module named"), ("federation.simulation.plots:columns", "is no class of plug-ins")],
)
def test_a_broken_plug_in_of_a_package_is_named(monkeypatch: pytest.MonkeyPatch, value: str, said: str) -> None:
    monkeypatch.setattr("federation.simulation.plugins.entry_points", lambda group: [EntryPoint("broken", value, group)])
    with pytest.raises(SimulationError, match=rf"^algorithms\.fit\.selection: {value}, which a package calls 'broken', {said}"):
        run(algorithms={"fit": {"selection": "broken"}})


# Files


def test_the_export_has_the_structure_that_is_known() -> None:
    configuration = configured(simulation={"repetitions": 2, "stop_conds": {"metric": 0.3}})
    document = json.loads(json.dumps(export.document(configuration, simulate(configuration)), allow_nan=False))
    assert Configuration.model_validate(document["config"]) == configuration
    assert [one["repetition"] for one in document["status"]] == [0, 1]
    one = document["status"][0]
    assert set(one["con"]["devs"]) == {"availability", "failures", "ips", "energy", "net_speed", "local_data_sizes", "local_data_stats"}
    assert one["con"]["model"] == {"tot_weights": 28}
    for phase in ("fit", "eval"):
        var = one["var"][phase]
        assert set(var) == {"devs", "upd_opt_configs", "times", "consumption", "model_metrics"}
        assert set(var["upd_opt_configs"]["local"]) == set(var["upd_opt_configs"]["global"]) == {"epochs", "batch_size", "num_examples"}
        assert set(var["times"]) == {"computation", "communication_upload", "communication_distribution", "round"}
        assert set(var["consumption"]) == {"resources", "network_upload", "network_distribution", "energy"}
        assert set(var["model_metrics"]) == {"metric", "loss", "agg_metric", "agg_loss"}
        # Cut to the one round that ran, and null where nothing came back.
        assert np.shape(var["devs"]["selected"]) == np.shape(var["model_metrics"]["loss"]) == (1, 10)
        assert None in var["model_metrics"]["loss"][0]


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        yaml.safe_dump(
            BASE | {"variants": {"plain": {}, "far|off <b>": {"algorithms": {"federated_algorithm": "fedprox"}}}}, sort_keys=False
        )
    )
    return path


def test_a_sweep_is_one_report(swept: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["simulate", str(swept), "--output", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert [row["variant"] for row in said["variants"]] == ["plain", "far|off <b>"]
    assert all(Path(name).stat().st_size for name in said["files"])
    report = (tmp_path / "out/report.md").read_text()
    assert r"| far\|off <b> | 1 | 4 |" in report
    figures = {path.name for path in (tmp_path / "out/figures").iterdir()}
    assert {f"({name})" for name in figures} == {f"({name})" for name in figures if f"figures/{name}" in report}
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<svg") == len(figures) == 12
    assert "<b>" not in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    table = pd.read_parquet(tmp_path / "out/plain/simulation.parquet")
    assert list(table.columns[:5]) == ["repetition", "phase", "round", "device", "answered"]
    rounds = pd.read_csv(tmp_path / "out/rounds.csv")
    assert rounds.groupby("variant").size().to_dict() == {"plain": 4, "far|off <b>": 4}


def test_results_go_where_the_file_says(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"output_folder": "results/of-this", "output_file": "few.json"}
    swept.write_text(yaml.safe_dump(merged(BASE, {"simulation": named})))
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["simulate", str(swept)]).exit_code == 0
    said = json.loads((tmp_path / "results/of-this/few.json").read_text())
    assert said["config"]["simulation"]["output_file"] == "few.json"


def test_the_command_says_what_is_wrong_and_nothing_else(swept: Path, tmp_path: Path) -> None:
    sound = CliRunner().invoke(app, ["simulate", str(swept), "--check"])
    assert (sound.exit_code, "plain, far|off <b>: sound" in sound.output) == (0, True)
    swept.write_text("devices: {p_fail: 1.2}\n")
    assert isinstance(CliRunner().invoke(app, ["simulate", str(swept)]).exception, SimulationError)
    assert not (tmp_path / "simulation-results").exists()


def test_figures_of_the_analysis() -> None:
    statuses = simulate(configured(simulation={"repetitions": 2}))
    frame = analysis.rounds(statuses)
    one = frame[(frame["repetition"] == 1) & (frame["round"] == 2)].iloc[0]
    fit, evaluation = statuses[1].fit, statuses[1].eval
    assert one["energy"] == pytest.approx(fit.energy[2].sum() + evaluation.energy[2].sum())
    assert one["clock"] == pytest.approx(fit.times[:3].sum() + evaluation.times[:3].sum())
    summary = analysis.summary({"": statuses}).iloc[0]
    assert summary["metric"] == pytest.approx(np.mean([status.eval.agg_metric[3] for status in statuses]))
    assert summary["fairness"] == pytest.approx(np.mean([status.fit.selected.sum(0).std() for status in statuses]))
    assert analysis.by_device(statuses)["selected"].sum() == sum(status.fit.selected.sum() for status in statuses)


def test_a_folder_that_cannot_be_written(swept: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(Exception, match="name an output folder that can be written"):
        sweep.run(swept, sweep.checked(swept), output=tmp_path / "out")


def test_the_jobs_of_a_round_are_as_equal_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten devices in jobs of four at most: 4, 3 and 3, since a last job of two would leave another worker waiting."""
    sizes: list[int] = []

    class Counting(InProcess):
        def run(self, jobs: Iterator[Job]) -> Iterator[Result]:
            for job in jobs:
                sizes.append(len(job.tasks))
                yield from super().run(iter([job]))

    monkeypatch.setattr("federation.simulation.simulator.executor", lambda _: Counting())
    everyone = {"fit": {"params": {"n": 10}}, "eval": {"params": {"n": 1}}}
    run(algorithms=everyone, simulation={"num_rounds": 1}, devices={"p_available": 1, "p_fail": 0}, workers={"chunk": 4})
    assert sizes == [4, 3, 3, 1]
