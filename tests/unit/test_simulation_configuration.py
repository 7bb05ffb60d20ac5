"""The simulation's configuration file: imports, variants, and what is refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from federation.simulation.algorithms import ALGORITHMS
from federation.simulation.configuration import Configuration, Evaluation, RoundParameters, Sgd, StopConditions, load, merged
from federation.simulation.datasets import DATASETS
from federation.simulation.errors import SimulationError
from federation.simulation.models import METRICS, MODELS
from federation.simulation.selection import SELECTIONS
from federation.simulation.sweep import checked
from federation.simulation.updates import UPDATES

ROOT = Path(__file__).resolve().parents[2]
#: What has no default of some plug-ins.
NEEDED = {"file": {"path": "x"}, "package": {"package": "x"}}


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(data: Any, name: str = "simulation.yaml") -> Path:
        path = tmp_path / name
        path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
        return path

    return write


def test_an_empty_file_is_the_usual_values(written: Any) -> None:
    one = load(written("# nothing\n"))[""]
    assert one == Configuration()
    assert (one.simulation.repetitions, one.simulation.num_rounds, one.devices.num, one.devices.p_available) == (4, 15, 20, 0.8)
    assert (one.computation.ips_mean, one.network.speed_mean, one.energy.avail_mean) == (100, 100000, 25000)


def test_the_importing_file_wins_key_by_key(written: Any) -> None:
    written({"devices": {"num": 7, "p_fail": 0.5}, "import": "lowest.yaml"}, "base.yaml")
    written({"devices": {"num": 1}, "simulation": {"seed": 9}}, "lowest.yaml")
    one = load(written({"import": "base.yaml", "devices": {"p_fail": 0.2}}))[""]
    assert (one.devices.num, one.devices.p_fail, one.simulation.seed) == (7, 0.2, 9)


def test_of_several_imports_the_last_wins(written: Any) -> None:
    written({"devices": {"num": 1}}, "a.yaml")
    written({"devices": {"num": 2}}, "b.yaml")
    assert load(written({"import": ["a.yaml", "b.yaml"]}))[""].devices.num == 2


def test_imports_in_a_circle_are_refused(written: Any) -> None:
    written({"import": "simulation.yaml"}, "other.yaml")
    with pytest.raises(SimulationError, match=r"other\.yaml:1: import: simulation\.yaml imports this file in turn"):
        load(written({"import": "other.yaml"}))


def test_merging_leaves_both_as_they_were() -> None:
    below, above = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merged(below, above) == {"a": {"b": 1, "c": 2}}
    assert (below, above) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_variants_change_what_they_name(written: Any) -> None:
    found = load(written({"devices": {"num": 9}, "variants": {"few": {"devices": {"num": 3}}, "same": {}}}))
    assert {name: one.devices.num for name, one in found.items()} == {"few": 3, "same": 9}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("devices: {p_fail: 1.2}", r"simulation\.yaml:1: devices\.p_fail: .*less than or equal to 1"),
        ("devices: {p_available: -0.1}", r"devices\.p_available: .*greater than or equal to 0"),
        ("data:\n  non_iid_partitions: -1", r"simulation\.yaml:2: data\.non_iid_partitions: .*greater than or equal to 0"),
        ("algorithms: {fit: {params: {n: 21}}}", r"algorithms\.fit\.params\.n: 21 devices cannot be selected of 20"),
        ("algorithms: {fit: {params: {n: 2, k: 0.5}}}", r"exclude each other"),
        ("devices: {p_availible: 1}", r"devices\.p_availible: unknown key, did you mean p_available\?"),
        ("device: {num: 1}", r"device: unknown key, did you mean devices\?"),
        ("computation: {ips_mean: 50, ips_var: 50}", r"computation: ips_mean - ips_var = 0, and must be at least 1"),
        ("energy: {avail_mean: 1, avail_var: 2}", r"energy: avail_mean - avail_var = -1"),
        ("network: {speed_mean: 10, speed_var: 10}", r"network: speed_mean - speed_var = 0"),
        ("data: {mislabelling_percentage: 101}", r"mislabelling_percentage: .*less than or equal to 100"),
        ("simulation: {num_rounds: 0}", r"simulation\.num_rounds: .*greater than or equal to 1"),
        ("simulation: {output_file: ../up.json}", r"output_file: '../up.json' is not allowed"),
        ("variants: [1]", r"variants: must be names"),
        ("- a list", r"must be keys with values"),
        ("devices: {num: 1}\ndevices: {num: 2}", r"stands twice"),
        ("variants:\n  few:\n    devices: {num: 0}", r"simulation\.yaml:3: variants\.few\.devices\.num: "),
    ],
)
def test_what_is_impossible_is_named(written: Any, text: str, said: str) -> None:
    with pytest.raises(SimulationError, match=said):
        load(written(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("algorithms: {federated_algorithm: fedovg}", r"algorithms\.federated_algorithm: there is no 'fedovg' \(there are: fedavg"),
        ("algorithms: {fit: {selection: ucb}}", r"algorithms\.fit\.selection: .*'ucb'"),
        ("algorithms: {eval: {update: nothing}}", r"algorithms\.eval\.update: .*'nothing'"),
        (
            "algorithms: {fit: {selection: ucb_cs, selection_params: {gama: 1}}}",
            r"algorithms\.fit\.selection_params\.gama: unknown key, did you mean gamma\? \(hyperparameters of ucb_cs: gamma, delta\)",
        ),
        ("algorithms: {federated_algorithm: feddyn, federated_algorithm_params: {alpha: -1}}", r"federated_algorithm_params\.alpha: .*greater than 0"),
        ("algorithms: {federated_algorithm: feddyn, fit: {aggregation: fedavg}}", r"fedavg does not go with feddyn"),
        ("algorithms: {fit: {aggregation: scaffold}}", r"scaffold does not go with fedavg"),
        ("simulation: {model_name: mnist}", r"mnist takes 784 features and 10 classes, and the data set has 64 and 10"),
        ("simulation: {metric: acuracy}", r"simulation\.metric: there is no 'acuracy' \(there are: accuracy"),
        ("data: {num_examples_mean: 1500}", r"a device is to hold 1500 examples, and digits has 1438 to train on"),
        ("{devices: {num: 200}, data: {non_iid_partitions: 0.5}}", r"200 devices with 10 examples or more do not fit into 1438"),
        ("variants: {a b: {}, a-b: {}}", r"would share a folder"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_named_before_it_runs(written: Any, text: str, said: str) -> None:
    with pytest.raises(SimulationError, match=said):
        checked(written(text))


def test_the_trace_lies_beside_its_file(written: Any, tmp_path: Path) -> None:
    assert load(written("devices: {trace: there.csv}"))[""].devices.trace == tmp_path / "there.csv"


def test_the_example_is_sound() -> None:
    assert list(checked(ROOT / "examples/simulation/digits.yaml")) == ["fedavg", "fedprox", "scaffold", "feddyn"]


def keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in (StopConditions, RoundParameters, Sgd, Evaluation):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_the_reference_names_every_key_and_plug_in() -> None:
    page = (ROOT / "docs/reference/simulation.md").read_text()
    told = set(re.findall(r"`([^`\s]+)`", page))
    assert {*keys(Configuration), *StopConditions.model_fields, *RoundParameters.model_fields, *Sgd.model_fields} - told == set()
    for registry in (SELECTIONS, ALGORITHMS, UPDATES, MODELS, DATASETS):
        for name in registry.names():
            assert name in told
            assert set(type(registry.make(name, NEEDED.get(name, {}), "")).model_fields) - told == set(), name
    assert set(METRICS) <= told
