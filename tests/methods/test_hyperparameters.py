"""Settings of DC, DSA and DM against the published rows (hyperparameters.csv), and how unlisted cells get theirs."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest

from benchmark.condensation.method import Method, nearest_ipc, table_dataset
from benchmark.condensation.settings import Schedule, Setting
from benchmark.containers.budget import Budget
from benchmark.data import DatasetSpec
from benchmark.grid import registry
from benchmark.system.errors import CellError
from benchmark.training.recipes import unified
from tests.short import scaled_settings

PAPER, QUICK = Schedule.parse("paper"), Schedule.parse("quick")
SPECS = {
    "SVHN": DatasetSpec("svhn", "SVHN", 3, 32, 32, 10, False, "SVHN"),
    "CIFAR10": DatasetSpec("cifar10", "CIFAR-10", 3, 32, 32, 10, True, "CIFAR10"),
    "CIFAR100": DatasetSpec("cifar100", "CIFAR-100", 3, 32, 32, 100, True, "CIFAR100"),
    "TinyImageNet": DatasetSpec("tiny-imagenet", "Tiny-ImageNet", 3, 64, 64, 200, True, "TinyImageNet"),
}
DIGITS = DatasetSpec("digits", "Digits", 1, 8, 8, 10, False, "digits")
FASHION = DatasetSpec("fashion-mnist", "Fashion-MNIST", 1, 28, 28, 10, True, "FashionMNIST")
LARGE = DatasetSpec("folder:/x", "x", 3, 128, 96, 5, True, "")
MANY = DatasetSpec("folder:/y", "y", 3, 16, 16, 60, True, "")


def rows(method: str) -> list[dict[str, str]]:
    with (Path(__file__).parent / "hyperparameters.csv").open() as file:
        found = [row for row in csv.DictReader(file) if row["method"] == method and row["use"] == "default"]
    assert len(found) == 12, "four data sets at IPC 1, 10, 50"
    return found


def pairs(text: str) -> dict[str, str]:
    """`a=1; b=2` as a dict; parts without `=` as keys."""
    return {name: value for name, _, value in (part.strip().partition("=") for part in text.split(";"))}


CELLS = [
    pytest.param(row, id=f"{row['method']}-{row['dataset']}-{row['ipc']}")
    for method in ("dc", "dsa", "dm")
    for row in rows(method)
]


@pytest.mark.parametrize("row", CELLS)
def test_every_default_row_is_reproduced(row):
    method, spec, ipc = registry.get(row["method"]), SPECS[row["dataset"]], int(row["ipc"])
    hyper = method.hyper_parameters(spec, ipc, PAPER)
    assert hyper.iterations == int(row["outer_its"])
    assert hyper.lr_img == float(row["lr_img"])
    assert hyper.mom_img == float(row["mom_img"])
    assert hyper.batch_real == int(row["batch_real"])
    assert {"noise": "noise", "real": "random real"}[hyper.init] == row["init"]
    assert row["batch_syn"] == "all"
    if row["method"] != "dm":
        inner = pairs(row["inner"])
        assert (hyper.outer_loop, hyper.inner_epochs) == (int(inner["outer_loop"]), int(inner["inner_epochs"]))
        assert hyper.lr_net == float(row["lr_net"])
        assert (row["mom_net"], row["wd_net"]) == ("0", "0")
        assert hyper.distance == "dc"
    budget = Budget(ipc, spec.classes, spec.image_shape)
    assert budget.floats == int(row["budget_floats"])
    assert method(hyper).cost(spec, budget).floats == int(row["stored_floats"])


@pytest.mark.parametrize("row", CELLS)
def test_the_native_recipe_is_the_eval_column(row):
    method, spec, ipc = registry.get(row["method"]), SPECS[row["dataset"]], int(row["ipc"])
    recipe = method(method.hyper_parameters(spec, ipc, PAPER)).native_recipe(spec, ipc)
    evaluation = pairs(row["eval"])
    assert recipe.epochs == int(evaluation["epochs"])
    assert recipe.steps is None
    assert (recipe.batch, recipe.lr) == (int(evaluation["batch"]), float(evaluation["lr"]))
    assert recipe.weight_decay == float(evaluation["wd"])
    assert recipe.momentum == 0.9
    assert (recipe.decay, evaluation["drop"]) == ("halfway", "x0.1 after epoch index E//2+1")
    assert recipe.augment == evaluation["aug"]
    assert not recipe.align_corners
    assert recipe.cutmix == 0
    # The matching step's strategy is the data set's; the recipe leaves it to the data set as well.
    assert recipe.strategy == ""
    assert row["aug"] in ("none", "color_crop_cutout_" + ("flip_" if spec.flip else "") + "scale_rotate")


@pytest.mark.parametrize("name", ["random", "herding", "kcenter", "whole"])
def test_reference_rows_have_no_protocol_of_their_own(name):
    method = registry.get(name)
    hyper = method.hyper_parameters(SPECS["CIFAR10"], 10, PAPER)
    assert method(hyper).native_recipe(SPECS["CIFAR10"], 10) == unified(10)


@pytest.mark.parametrize("name", ["dc", "dsa"])
def test_loops_of_unlisted_ipcs(name):
    found = {
        ipc: registry.get(name).hyper_parameters(SPECS["CIFAR10"], ipc, PAPER) for ipc in (2, 7, 20, 64, 100, 1000)
    }
    loops = {ipc: (hyper.outer_loop, hyper.inner_epochs) for ipc, hyper in found.items()}
    assert loops == {2: (2, 250), 7: (7, 71), 20: (20, 25), 64: (50, 8), 100: (50, 10), 1000: (50, 10)}


@pytest.mark.parametrize(
    ("dataset", "ipc", "lr"),
    [("CIFAR10", 99, 1.0), ("CIFAR10", 100, 10.0), ("CIFAR100", 100, 1.0), ("CIFAR100", 125, 1.0),
     ("CIFAR100", 126, 10.0), ("SVHN", 100, 10.0)],
)  # fmt: skip
def test_dm_steps_further_with_many_images(dataset, ipc, lr):
    assert registry.get("dm").hyper_parameters(SPECS[dataset], ipc, PAPER).lr_img == lr


LISTED = {"SVHN", "CIFAR10", "CIFAR100", "TinyImageNet"}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [(SPECS["CIFAR10"], "CIFAR10"), (SPECS["TinyImageNet"], "TinyImageNet"), (DIGITS, "SVHN"), (FASHION, "CIFAR10"),
     (LARGE, "TinyImageNet"), (MANY, "CIFAR100")],
)  # fmt: skip
def test_other_data_sets_take_the_row_of_a_like_one(spec, expected):
    assert table_dataset(spec, LISTED) == expected
    assert table_dataset(DIGITS, {*LISTED, "digits"}) == "digits"


@pytest.mark.parametrize(
    ("ipc", "expected"), [(1, 1), (2, 1), (3, 1), (4, 10), (10, 10), (22, 10), (23, 50), (50, 50), (1000, 50)]
)
def test_other_ipcs_take_the_nearest_row_on_a_log_scale(ipc, expected):
    assert nearest_ipc(ipc, [50, 1, 10]) == expected


def test_a_tie_takes_the_smaller_ipc():
    assert nearest_ipc(4, [16, 1]) == 1


@dataclass(frozen=True)
class TabledHyper:
    iterations: Annotated[int, Setting(scaled=True, quick=7)] = 400
    expert_epochs: Annotated[int, Setting(scaled=True)] = 50
    lr: float = 0.5
    size: int = 3


class Tabled(Method):
    """A method with a table."""

    name, title, Hyper = "tabled", "Tabled", TabledHyper
    cells: ClassVar[dict[tuple[str, int], dict[str, Any]]] = {
        (dataset, ipc): {"lr": lr, "size": ipc}
        for dataset, lr in (("SVHN", 0.1), ("CIFAR10", 0.2), ("CIFAR100", 0.3), ("TinyImageNet", 0.4))
        for ipc in (1, 10)
    }

    @classmethod
    def adapt(cls, values, spec, ipc, schedule):
        return values | {"size": 1000 * values["size"] + ipc}


@pytest.mark.parametrize(
    ("spec", "ipc", "lr", "size"),
    [(SPECS["CIFAR10"], 1, 0.2, 1001), (SPECS["CIFAR10"], 3, 0.2, 1003), (SPECS["CIFAR10"], 4, 0.2, 10_004),
     (DIGITS, 50, 0.1, 10_050), (FASHION, 10, 0.2, 10_010), (MANY, 1, 0.3, 1001), (LARGE, 1, 0.4, 1001)],
)  # fmt: skip
def test_row_then_formula(spec, ipc, lr, size):
    assert Tabled.hyper_parameters(spec, ipc, PAPER) == TabledHyper(lr=lr, size=size)


@pytest.mark.parametrize(
    ("schedule", "iterations", "expert_epochs"),
    [("paper", 400, 50), ("1", 400, 50), ("1.0", 400, 50), ("0.5", 200, 25), ("0.05", 20, 2), ("1e-6", 1, 1)],
)
def test_a_fraction_scales_the_lengths_alone(schedule, iterations, expert_epochs):
    hyper = Tabled.hyper_parameters(SPECS["CIFAR10"], 1, Schedule.parse(schedule))
    assert hyper == TabledHyper(iterations, expert_epochs, 0.2, 1001)


def test_quick_is_the_methods_own_setting():
    assert Tabled.hyper_parameters(SPECS["CIFAR10"], 1, QUICK) == TabledHyper(7, 50, 0.2, 1001)


@pytest.mark.parametrize("schedule", ["quick", "paper", "0.01"])
def test_overrides_come_last(schedule):
    overrides = {"iterations": 9, "lr": 8.0}
    hyper = Tabled.hyper_parameters(SPECS["CIFAR10"], 1, Schedule.parse(schedule), overrides)
    assert (hyper.iterations, hyper.lr, hyper.size) == (9, 8.0, 1001)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "nan", "inf", "", "fast", "5%", "paper "])
def test_schedules_that_are_refused(text):
    with pytest.raises(ValueError, match="use quick, paper or a fraction"):
        Schedule.parse(text)


@pytest.mark.parametrize("name", sorted(registry.all_methods()))
@pytest.mark.parametrize("spec", [*SPECS.values(), DIGITS, FASHION, LARGE, MANY], ids=lambda spec: spec.title)
def test_every_method_has_settings_for_every_cell(name, spec):
    method = registry.get(name)
    for ipc in (1, 3, 10, 50, 120):
        for schedule in (PAPER, QUICK, Schedule.parse("0.001")):
            hyper = method.hyper_parameters(spec, ipc, schedule)
            assert all(getattr(hyper, field) >= 1 for field in scaled_settings(method, 1))
            cell = method(hyper)
            recipe = cell.native_recipe(spec, ipc).scaled(schedule.factor, ipc * spec.classes)
            assert recipe.total_steps(ipc * spec.classes) > 0
            budget = Budget(ipc, spec.classes, spec.image_shape)
            if name.startswith("fyi-") and not spec.flip:
                with pytest.raises(CellError, match="a mirrored image shows something else"):
                    cell.cost(spec, budget)
                continue
            assert min(vars(cell.cost(spec, budget).work).values()) >= 0
