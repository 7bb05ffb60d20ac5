"""SessionConfiguration: what a session of federated learning is asked to do, as its file says it; checked as a whole before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from fdn_worker.errors import Fault, FdnError, SettingsError
from fdn_worker.protocol.base import Id
from fdn_worker.protocol.order import IMAGE_PATTERN, Digest
from federation.catalogue.document import CatalogueError, Document
from federation.catalogue.tool import Needs
from federation.learning import assignment, selection, stopping
from federation.learning.aggregator import Aggregator, Corrected, Linear, load
from federation.learning.checkpoints import Checkpoints
from federation.learning.local_data import LocalData
from federation.learning.selection import Selection

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
#: Stands for the package's own entry point `seed`, where a model is named.
BY_PACKAGE = "package"
#: Where a combiner stands that is none of the nodes.
CENTRE = "centre"


class SessionRefused(FdnError):
    """A session cannot be run as it was asked for; says which key of it is wrong, and where."""

    code = "session-refused"
    fault = Fault.USER


class Part(BaseModel):
    """A part of a session's file: a wrong key is an error, never silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class AggregatorChoice(Part):
    """An aggregator by its name; see reference/learning.md."""

    name: str = "fedavg"
    arguments: dict[str, JsonValue] = Field(default_factory=dict)


class Select(Part):
    """Which of the clients that are there take part in a round."""

    how: Literal["all", "random", "attributes", "function"] = "all"
    #: Of `random`.
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int = 0
    #: Of `attributes`: labels of the catalogue's entry of a node, `region` among them.
    attributes: dict[str, str] | None = None
    #: Of `function`: `module:name`; it is given the candidates and the round's number.
    function: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None

    @model_validator(mode="after")
    def _what_it_needs(self) -> Select:
        needs = {"random": "share", "attributes": "attributes", "function": "function"}
        for how, key in needs.items():
            if self.how == how and getattr(self, key) is None:
                raise ValueError(f"`how: {how}` needs {key}")
            if self.how != how and getattr(self, key) is not None:
                raise ValueError(f"{key} goes with `how: {how}`, and here it is {self.how}")
        return self

    def selection(self) -> Selection:
        """The rule itself."""
        if self.share is not None:
            return selection.random_share(self.share, self.seed)
        if self.attributes is not None:
            return selection.by_attribute(**self.attributes)
        if self.function is not None:
            return _named(self.function)
        return selection.everyone


class Reached(Part):
    """A value of a metric at which the session ends."""

    name: str
    reached: float


class LossReached(Reached):
    """The same of a loss, which falls."""

    name: str = "loss"


class Patience(Part):
    """The session ends after so many rounds without progress, by more than `least`."""

    name: str = "loss"
    rounds: Count
    rises: bool = False
    least: Annotated[float, Field(ge=0)] = 0.0


class Stop(Part):
    """When the session ends before its last round. Each is looked at after every round."""

    metric: Reached | None = None
    loss: LossReached | None = None
    patience: Patience | None = None


class CombinerEntry(Part):
    """A combiner: folds the updates of its clients, and sends one partial sum on to the one above, or to the reducer."""

    name: Id
    #: The centre, or a node, where it is a task (policy: tool and task `combine`).
    at: Id = CENTRE
    above: Id | None = None
    region: str = ""
    #: Clients at most; left out, any number.
    room: Count | None = None
    #: Of its task, NAME:TAG@DIGEST; left out, the clients'.
    image: Annotated[str, Field(min_length=1, pattern=IMAGE_PATTERN)] | None = None

    @property
    def combiner(self) -> assignment.Combiner:
        return assignment.Combiner(self.name, self.region, self.room)


class SecureSum(Part):
    """Updates stay at the nodes, and the centre sees their sum alone (secure_sum.py)."""

    #: Clients that must stay to the end: more than half of them.
    threshold: Annotated[int, Field(ge=2)]
    #: The metrics of updates that are added up with them; others stay where they are.
    metrics: tuple[str, ...] = ()
    #: Sums are in units of 2^-bits, and stay below 2^(62 - bits).
    bits: Annotated[int, Field(ge=8, le=48)] = 32
    #: Of its tasks, NAME:TAG@DIGEST; left out, the clients'.
    image: Annotated[str, Field(min_length=1, pattern=IMAGE_PATTERN)] | None = None


class SessionConfiguration(Part):
    """A whole file. Paths are as it has them, or absolute once `load_session` has read it."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    user: str = ""
    project: str = ""
    #: Folder of the client package.
    package: str
    #: A .safetensors file, the id of a model to go on from, or `package`: made by its entry point `seed`.
    model: str = BY_PACKAGE
    #: Ids of nodes, or `*`: all that are enrolled.
    nodes: Literal["*"] | Annotated[tuple[Id, ...], Field(min_length=1)] = "*"
    aggregator: AggregatorChoice = AggregatorChoice()
    rounds: Count = 10
    #: Seconds for the updates of a round, and for its validation.
    round_timeout: Seconds = 180.0
    #: Updates without which a round has failed.
    clients_required: Count = 1
    #: Clients that are asked at most; None: all that were selected.
    clients_requested: Count | None = None
    #: A round ends when so many updates have come; -1: when all have.
    buffer: Literal[-1] | Count = -1
    #: What becomes of clients that are late: ended at their nodes, or counted in the next round.
    stragglers: Literal["drop", "next-round"] = "drop"
    #: Whether each round's model is validated at the clients that were asked in it.
    validate_: bool = Field(True, alias="validate")
    select: Select = Select()
    stop: Stop = Stop()
    #: For the client's program, over the package's own.
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    combiners: tuple[CombinerEntry, ...] = ()
    assign: Literal["least_packed", "by_region", "by_name"] = "least_packed"
    #: Of `assign: by_name`: client -> combiner.
    names: dict[Id, Id] = Field(default_factory=dict)
    secure_sum: SecureSum | None = None
    datasets: tuple[Id, ...] = ()
    resources: Needs = Needs()
    launcher: str | None = None
    #: Over the package's own.
    image: Annotated[str, Field(min_length=1, pattern=IMAGE_PATTERN)] | None = None
    image_digest: Digest | None = None
    #: Seconds that one client's command may take.
    timeout: Seconds = 3600.0
    #: Which models keep their files: all, last, best:METRIC, every:N.
    checkpoints: str = "all"
    #: New attempts of a client's run after faults of the infrastructure.
    retries: Annotated[int, Field(ge=0, le=100)] = 1
    #: Nodes on this machine with data made for them, for `fem learn` where there is no federation.
    local: LocalData | None = None

    @field_validator("nodes")
    @classmethod
    def _each_once(cls, value: Literal["*"] | tuple[str, ...]) -> Literal["*"] | tuple[str, ...]:
        _no_twice(() if value == "*" else value)
        return value

    @field_validator("checkpoints")
    @classmethod
    def _a_policy(cls, value: str) -> str:
        try:
            Checkpoints.parse(value)
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("aggregator")
    @classmethod
    def _known(cls, value: AggregatorChoice) -> AggregatorChoice:
        try:
            # How many clients there are may be left to the session.
            load(value.name, {"clients": 1, **value.arguments} if takes_clients(value.name) else value.arguments)
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("combiners")
    @classmethod
    def _a_tree(cls, value: tuple[CombinerEntry, ...]) -> tuple[CombinerEntry, ...]:
        _no_twice([one.name for one in value])
        above = {one.name: one.above for one in value}
        for name in above:
            seen, at = {name}, above[name]
            while at is not None:
                if at not in above:
                    raise ValueError(f"{name} stands below {at}, which is no combiner")
                if at in seen:
                    raise ValueError(f"{name} stands below itself")
                seen.add(at)
                at = above[at]
        places = {one.name: one.at for one in value}
        for one in value:
            if one.at == CENTRE and one.above is not None and places[one.above] != CENTRE:
                raise ValueError(f"{one.name} stands at the centre, and {one.above} above it at a node: what is at the centre stays there")
        return value

    @model_validator(mode="after")
    def _numbers_fit(self) -> SessionConfiguration:
        there = None if self.nodes == "*" else len(self.nodes)
        asked = self.clients_requested if self.clients_requested is not None else there
        if there is not None and self.clients_required > there:
            raise ValueError(f"clients_required: {self.clients_required} of {there} nodes")
        if asked is not None and self.clients_required > asked:
            raise ValueError(f"clients_required: {self.clients_required}, and {asked} are asked (clients_requested)")
        if self.buffer != -1 and self.buffer < self.clients_required:
            raise ValueError(
                f"buffer: a round that ends after {self.buffer} updates never has the {self.clients_required} of clients_required"
            )
        if self.buffer != -1 and asked is not None and self.buffer > asked:
            raise ValueError(f"buffer: {self.buffer} updates of {asked} clients")
        return self

    @model_validator(mode="after")
    def _combiners_fit(self) -> SessionConfiguration:
        if self.combiners and not isinstance(self.make_aggregator(1), Linear):
            raise ValueError(
                f"combiners: {self.aggregator.name} compares the updates of all clients, and a combiner passes on their sum alone"
            )
        if (self.assign == "by_name") != bool(self.names):
            raise ValueError("names: goes with `assign: by_name`, and says which client goes to which combiner")
        if strange := sorted(set(self.names.values()) - {one.name for one in self.combiners}):
            raise ValueError(f"names: {strange[0]} is no combiner")
        return self

    @model_validator(mode="after")
    def _sums_fit(self) -> SessionConfiguration:
        if self.secure_sum is None:
            return self
        aggregator = self.make_aggregator(1)
        if not isinstance(aggregator, Linear):
            raise ValueError(
                f"secure_sum: {self.aggregator.name} compares the updates of all clients, and their sum is all there is to see"
            )
        if isinstance(aggregator, Corrected):
            raise ValueError(
                f"secure_sum: {self.aggregator.name} remembers something of each client's update, which the centre does not see"
            )
        if self.combiners:
            raise ValueError("secure_sum: the sum is made at the centre, and combiners would see updates")
        if self.stragglers != "drop":
            raise ValueError("secure_sum: an update counts in its own round alone: `stragglers: drop`")
        asked = self.clients_requested or (None if self.nodes == "*" else len(self.nodes))
        if asked is not None and not asked // 2 < self.secure_sum.threshold <= asked:
            raise ValueError(f"secure_sum: a threshold of {self.secure_sum.threshold} of {asked} clients: it is more than half of them")
        return self

    def make_aggregator(self, clients: int) -> Aggregator:
        """The aggregator, for a session with so many clients."""
        given = self.aggregator.arguments
        return load(self.aggregator.name, {"clients": clients, **given} if takes_clients(self.aggregator.name) else given)

    def preference(self) -> assignment.Preference:
        """By what clients are assigned to combiners."""
        if self.assign == "by_name":
            return assignment.by_name(self.names)
        return assignment.by_region if self.assign == "by_region" else assignment.least_packed

    def rules(self) -> list[stopping.Rule]:
        """When it ends; the last round among them."""
        found = [stopping.after_rounds(self.rounds)]
        if self.stop.metric:
            found.append(stopping.metric_reached(self.stop.metric.name, self.stop.metric.reached))
        if self.stop.loss:
            found.append(stopping.loss_reached(self.stop.loss.reached, self.stop.loss.name))
        if (patience := self.stop.patience) is not None:
            found.append(stopping.patience(patience.name, patience.rounds, rises=patience.rises, least=patience.least))
        return found


def takes_clients(name: str) -> bool:
    """Whether that aggregator needs to know how many clients there are."""
    return name in ("scaffold", "feddyn")


def model_id(text: str) -> str | None:
    """The id of a model, if that is what the text is."""
    try:
        return str(UUID(text))
    except ValueError:
        return None


def load_session(path: Path) -> SessionConfiguration:
    """The session of a YAML file, its paths made absolute. SessionRefused names each wrong key with its line."""
    try:
        document = Document(path)
        configuration = document.build(SessionConfiguration)
    except CatalogueError as error:
        raise SessionRefused(str(error), remedy="mend the file: reference/learning.md has its keys") from error
    beside = path.absolute().parent
    paths = {"package": str(beside / configuration.package)}
    if configuration.model != BY_PACKAGE and model_id(configuration.model) is None:
        paths["model"] = str(beside / configuration.model)
        if not Path(paths["model"]).is_file():
            raise SessionRefused(
                document.told(("model",), f"there is no file {configuration.model}"),
                remedy="name a .safetensors file, the id of a model, or `package`",
            )
    return configuration.model_copy(update=paths)


def _named(place: str) -> Selection:
    module, _, name = place.partition(":")
    try:
        found: Selection = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SessionRefused(f"select.function: {place}: {error}", remedy="install its module where the session runs") from error
    return found


def _no_twice(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} named twice")
