"""The files of a results folder as types: each field has its name on disk and is checked once, when the file is read.

The JSON of a record is its fields. A field that a newer version has added is left out; one that an older version did
not write has a default. A file in which a field has another type, or in which a field without a default is absent, is
no such record (`from_json`).

Two parts stay JSON objects because they are identities, which are only ever compared as a whole: the configuration of a
cell and the recipe of an evaluation. So a field there that this version does not know still makes another cell of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=2**62)]
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]

T = TypeVar("T")


def from_json(value: Any, kind: type[T]) -> T:
    """Return a record of the given kind from the JSON of a file. Raises ValueError, which says what is wrong and
    where."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def as_json(record: Any) -> Any:
    """Return the JSON of a record. Raises TypeError for a value that JSON does not have, for example in a note."""
    return msgspec.to_builtins(record, enc_hook=_plain)


def _plain(value: Any) -> Any:
    """Return a text or number of a derived type, such as numpy's floats and torch's version, as JSON has it."""
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


# result.json


@dataclass(frozen=True)
class Pruning:
    """How images of a condensed set were dropped: to `gipc` of each class from the `gipc_over` it was condensed with.

    `beta` is the share of the dropped images that were the hardest, None if none was chosen. `beta_scores` holds the
    accuracies of every network by the share they were trained at; it is empty if the user gave the share.
    `beta_scored_on` says how many training images were held out for that. Trainings are whole trainings of a network on
    the condensed set.
    """

    gipc: Count | None = None
    gipc_over: Count | None = None
    pruned_per_class: Count | None = None
    split: str = ""
    beta: float | None = None
    beta_scores: dict[str, tuple[float, ...]] = field(default_factory=dict)
    beta_scored_on: Count = 0
    trainings_for_aum: Count | None = None
    trainings_for_beta: Count | None = None


@dataclass(frozen=True)
class Phase:
    """A phase of a run: its steps, and its seconds, those of resumed attempts included."""

    steps: Count
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Condensation:
    """The outcome and the cost of a condensation. `steps`: those that moved the container. `train_images`: how many
    were condensed. `notes`: further facts, by name, for people."""

    container: str = ""
    space: str = ""
    steps: Count | None = None
    seconds: float
    phases: dict[str, Phase] = field(default_factory=dict)
    peak_memory_mib: float | None = None
    floats: Count | None = None
    budget_floats: Count | None = None
    budget_multiple: float | None = None
    """0 if there is no budget (the whole training set)."""
    bytes: Count | None = None
    images: Count | None = None
    images_per_class: float | None = None
    train_images: Count | None = None
    learned_lr: float | None = None
    pruning: Pruning | None = None
    notes: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Networks trained on a condensed set by one recipe, and their accuracies on the test split, each from 0 to 1.

    `recipe` is the full-length one, `factor` the schedule's; `steps` and `epochs` are those taken, on `images` images.
    `seconds` are those of all the networks together.
    """

    protocol: str
    network: str
    recipe: dict[str, Any]
    factor: float
    steps: Count
    epochs: float | None = None
    images: Count | None = None
    accuracies: Annotated[tuple[Share, ...], Meta(min_length=1)]
    seconds: float
    peak_memory_mib: float | None = None

    @property
    def name(self) -> str:
        """As `Evaluation.name`."""
        return f"{self.protocol}-{self.network}"


@dataclass(frozen=True)
class Environment:
    """The name of the machine, and the versions of torch, Python and this package."""

    device: str = ""
    torch: str = ""
    python: str = ""
    package: str = ""


@dataclass(frozen=True)
class MethodCard:
    """A method as the report names it. `container`: its row of the container table; empty for none."""

    title: str = ""
    paper: str = ""
    category: str = ""
    disclosure: str = ""
    container: str = ""


@dataclass(frozen=True)
class DatasetCard:
    """A data set as the report names it. `published`: its name in the published tables; empty if it has none."""

    title: str = ""
    published: str | None = None
    classes: Count | None = None
    image_shape: tuple[Count, ...] = ()
    train_images: Count | None = None
    test_images: Count | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """A cell that is done. `cell`: its configuration, whose hash is `key`. `finished`: when, in ISO 8601."""

    format: int
    key: str
    cell: dict[str, Any]
    method: MethodCard | None = None
    dataset: DatasetCard | None = None
    condensation: Condensation
    evaluations: tuple[EvaluationResult, ...]
    environment: Environment
    finished: str = ""


@dataclass(frozen=True)
class Origin:
    """Where a condensed set comes from. Its file keeps this for the result that will quote it."""

    key: str
    cell: dict[str, Any]
    condensation: Condensation
    environment: Environment


# config.json and failure.json


@dataclass(frozen=True)
class Request:
    """An evaluation that was asked of a cell."""

    protocol: str
    network: str
    nets: Count = 0


@dataclass(frozen=True)
class Failure:
    """Why the last attempt at a cell failed: the word that tables print, a sentence that says how to mend it, and
    when."""

    cell: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    message: str = ""
    traceback: str = ""
    time: str = ""


# speed.json


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One side of a measured unit: medians over `samples`, all in milliseconds; memory and launches on a GPU."""

    milliseconds: Positive
    samples: tuple[float, ...] = ()
    cpu_milliseconds: float | None = None
    first_milliseconds: float | None = None
    flops_per_second: Positive | None = None
    ceiling_share: float | None = None
    peak_mib: float | None = None
    launches: float | None = None


@dataclass(frozen=True, kw_only=True)
class SpeedUnit:
    """A unit of work, timed as the product does it and as the plain reference does. `ipc`: None if the unit does not
    depend on it."""

    unit: str = ""
    ipc: Annotated[int, Meta(ge=1)] | None = None
    label: str
    flops: float | None = None
    ratio: float | None = None
    cpu_ratio: float | None = None
    product: Timing
    plain: Timing


@dataclass(frozen=True)
class SkippedUnit:
    """A unit of work that could not be timed, and why."""

    unit: str
    ipc: Count | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What `benchmark.speed` measured. It names the machine and the images, how busy the machine was with other
    processes (`load`), what it can do at most (`ceilings`, FLOP per second), and the units."""

    format: int
    environment: Environment
    dataset: str = "?"
    real_images: bool = True
    precision: str = "?"
    load: float = 0.0
    contended: bool = False
    ceilings: dict[str, float] = field(default_factory=dict)
    units: tuple[SpeedUnit, ...]
    skipped: tuple[SkippedUnit, ...] = ()
    finished: str = ""
