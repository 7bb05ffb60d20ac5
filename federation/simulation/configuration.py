"""The configuration file: sections and keys of the simulator, `import` of other files, variants of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from federation.catalogue.document import CatalogueError, Document, Place, explained
from federation.simulation.errors import SimulationError

Probability = Annotated[float, Field(ge=0, le=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Parameters = dict[str, Any]
Made = TypeVar("Made", bound=BaseModel)


class Section(BaseModel):
    """Keys of one section; another key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


def _above(section: Made, mean: str, var: str, *, least: int = 1) -> Made:
    """What is drawn from [mean - var, mean + var) must not fall below `least`."""
    if getattr(section, mean) - getattr(section, var) < least:
        raise ValueError(f"{mean} - {var} = {getattr(section, mean) - getattr(section, var)}, and must be at least {least}")
    return section


class StopConditions(Section):
    """A repetition ends when the aggregated metric of an evaluation is at least, or its loss at most, this."""

    metric: float = 1.0
    loss: float = 0.0


class Run(Section):
    """The section `simulation`."""

    repetitions: Positive = 4
    output_folder: Path = Path("simulation-results")
    output_file: Annotated[str, Field(pattern=r"^[^/]+\.json$")] = "simulation.json"
    model_name: str = "softmax"
    model_params: Parameters = Field(default_factory=dict)
    metric: str = "accuracy"
    num_rounds: Positive = 15
    stop_conds: StopConditions = StopConditions()
    initializer: Literal["default", "zeros"] = "default"
    seed: Natural = 123
    #: What a round without a client is: the end with an error, or a round in which nothing happens.
    empty_rounds: Literal["error", "skip"] = "error"


class RoundParameters(Section):
    """What a round asks for: how many devices, and what each of them does."""

    k: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Positive | None = None
    epochs: Positive = 2
    batch_size: Positive = 16
    num_examples: Positive = 100

    @model_validator(mode="after")
    def _one_of_two(self) -> RoundParameters:
        if self.k is not None and self.n is not None:
            raise ValueError("k (a share of the available devices) and n (their number) exclude each other")
        return self

    def wanted(self, available: int) -> int:
        """Devices to select."""
        return min(self.n, available) if self.n else int((0.5 if self.k is None else self.k) * available)


class Evaluation(Section):
    """The section `algorithms.eval`."""

    selection: str = "random"
    selection_params: Parameters = Field(default_factory=dict)
    update: str = "static"
    update_params: Parameters = Field(default_factory=dict)
    data: Literal["random"] = "random"
    params: RoundParameters = RoundParameters()


class Fit(Evaluation):
    """The section `algorithms.fit`."""

    #: That of the federated algorithm, if left out.
    aggregation: str | None = None


class Sgd(Section):
    """Hyperparameters of the optimizer: each step is the gradient times this."""

    learning_rate: Annotated[float, Field(gt=0)] = 0.1


class Algorithms(Section):
    """The section `algorithms`."""

    federated_algorithm: str = "fedavg"
    federated_algorithm_params: Parameters = Field(default_factory=dict)
    optimizer: Literal["sgd"] = "sgd"
    optimizer_params: Sgd = Sgd()
    fit: Fit = Fit()
    eval: Evaluation = Evaluation()


class Devices(Section):
    """The section `devices`."""

    num: Positive = 20
    p_available: Probability = 0.8
    p_fail: Probability = 0.1
    #: CSV file with `device,start,end`, in simulated seconds; takes the place of `p_available`.
    trace: Path | None = None


class Computation(Section):
    """Iterations per second: uniform in [mean - var, mean + var)."""

    ips_mean: Positive = 100
    ips_var: Natural = 50

    @model_validator(mode="after")
    def _some_speed(self) -> Computation:
        return _above(self, "ips_mean", "ips_var")


class Energy(Section):
    """Energy of a device in mJ, and what computing and the network take in mW."""

    avail_mean: Natural = 25000
    avail_var: Natural = 20000
    pow_comp_s: Annotated[float, Field(ge=0)] = 100
    pow_net_s: Annotated[float, Field(ge=0)] = 200

    @model_validator(mode="after")
    def _not_negative(self) -> Energy:
        return _above(self, "avail_mean", "avail_var", least=0)


class Network(Section):
    """Parameters per second."""

    speed_mean: Positive = 100000
    speed_var: Natural = 70000

    @model_validator(mode="after")
    def _some_speed(self) -> Network:
        return _above(self, "speed_mean", "speed_var")


class Data(Section):
    """The section `data`: the data set, and how it is shared out."""

    dataset: str = "digits"
    dataset_params: Parameters = Field(default_factory=dict)
    num_examples_mean: Positive = 500
    num_examples_var: Natural = 0
    #: 0 is IID, anything else the alpha of the Dirichlet distribution.
    non_iid_partitions: Annotated[float, Field(ge=0)] = 0.0
    mislabelling_percentage: Annotated[float, Field(ge=0, le=100)] = 0.0
    #: Examples that every device has at least in a non-IID partition, and how often one is drawn to get there.
    min_examples: Positive = 10
    tries: Positive = 1000

    @model_validator(mode="after")
    def _some_examples(self) -> Data:
        return _above(self, "num_examples_mean", "num_examples_var")


class Workers(Section):
    """Who trains. Nothing here changes a result, but `chunk`: sums are added up by chunks."""

    kind: Literal["processes", "in-process", "dask"] = "processes"
    #: Processes; as many as the machine has processors, if left out.
    number: Positive | None = None
    #: Address of a scheduler of Dask; one of its own, if left out.
    scheduler: str | None = None
    #: Devices of one job at most.
    chunk: Positive = 32
    #: Seconds that a worker has for a job, and workers that one job may cost.
    lease: Annotated[float, Field(gt=0)] = 600.0
    tries: Positive = 3
    #: Train the devices of a job at once, where the model allows it.
    vectorised: bool = True


class Configuration(Section):
    """A whole file, as it is run."""

    simulation: Run = Run()
    algorithms: Algorithms = Algorithms()
    devices: Devices = Devices()
    computation: Computation = Computation()
    energy: Energy = Energy()
    network: Network = Network()
    data: Data = Data()
    workers: Workers = Workers()

    @model_validator(mode="after")
    def _enough_devices(self) -> Configuration:
        for phase in ("fit", "eval"):
            n = getattr(self.algorithms, phase).params.n
            if n is not None and n > self.devices.num:
                raise ValueError(f"algorithms.{phase}.params.n: {n} devices cannot be selected of {self.devices.num} (devices.num)")
        return self


def load(path: Path) -> dict[str, Configuration]:
    """The configurations of a file by the names of their variants; one called "" where it has none. SimulationError says what is wrong where."""
    try:
        documents = list(_documents(path, ()))
    except CatalogueError as error:
        raise SimulationError(str(error), remedy="mend the file") from error
    data: dict[str, Any] = {}
    for document in reversed(documents):
        data = merged(data, document.data)
    variants = data.pop("variants", None)
    if variants is None:
        return {"": _build(data, documents, (), path)}
    if not isinstance(variants, dict) or not all(isinstance(changes, dict) for changes in variants.values()) or not variants:
        raise SimulationError(documents[0].told(("variants",), "must be names, each with the keys that it changes"))
    return {str(name): _build(merged(data, changes), documents, ("variants", str(name)), path) for name, changes in variants.items()}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, key by key; where both say something `above` wins."""
    result = dict(below)
    for key, value in above.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result


def _documents(path: Path, importing: tuple[Path, ...]) -> Iterator[Document]:
    """The file, then what it imports: those that win come first."""
    document = Document(path)
    if document.data is None:
        document.data = {}
    if not isinstance(document.data, dict):
        raise document.error("must be keys with values")
    named = document.data.pop("import", [])
    files = [named] if isinstance(named, str) else named
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise document.error("must be a file, or a list of files", ("import",))
    yield document
    trail = (*importing, path.resolve())
    for name in reversed(files):
        there = path.parent / name
        if there.resolve() in trail:
            raise document.error(f"{name} imports this file in turn", ("import",))
        yield from _documents(there, trail)


def _build(data: dict[str, Any], documents: list[Document], prefix: Place, path: Path) -> Configuration:
    try:
        configuration = Configuration.model_validate(data)
    except ValidationError as error:
        wrong = [_told(documents, prefix, place, why) for place, why in explained(error, Configuration, data)]
        raise SimulationError("\n  ".join([f"{len(wrong)} problems:", *wrong] if len(wrong) > 1 else wrong)) from error
    return _beside(configuration, path.parent)


def _beside(configuration: Configuration, folder: Path) -> Configuration:
    """With the trace and the client package found from where the file lies. An absolute path stays what it is."""
    devices, run = configuration.devices, configuration.simulation
    if devices.trace is not None:
        devices = devices.model_copy(update={"trace": folder / devices.trace})
    if isinstance(package := run.model_params.get("package"), str):
        run = run.model_copy(update={"model_params": run.model_params | {"package": str(folder / package)}})
    return configuration.model_copy(update={"devices": devices, "simulation": run})


def _told(documents: list[Document], prefix: Place, place: Place, why: str) -> str:
    """FILE:LINE: KEY: why, of the variant or else of the file that says it."""
    for document in documents:
        for whole in ([(*prefix, *place)] if prefix else []) + [place]:
            if place and document.holds(whole):
                return document.told(whole, why)
    return documents[0].told(prefix or place, why)
