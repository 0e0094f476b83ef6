"""Writes results folders by hand, so that a report can be held against numbers known beforehand."""

import dataclasses
import json

import pytest
from PIL import Image

from benchmark.report import plots
from benchmark.store.cells import RESULT_FORMAT, Cell, Evaluation, Job
from benchmark.store.folder import RESULT, Store
from benchmark.store.records import Failure, MethodCard, as_json
from benchmark.system.files import sealed, write_json
from benchmark.training.recipes import unified

PUBLISHED = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN", "tiny-imagenet": "TinyImageNet"}
TITLES = {"dm": "DM", "dc": "DC", "hmn": "HMN", "random": "Random", "whole": "Whole set"}
SIZES = {"digits": (10, [1, 8, 8], 1347), "cifar100": (100, [3, 32, 32], 50000)}


def card_of(cell):
    category = "reference" if cell.method in ("random", "whole") else "method"
    return MethodCard(TITLES.get(cell.method, cell.method), "A & B, 2023", category)


class Folder:
    """A results folder that is filled cell by cell.

    Every writer takes the fields of a cell that differ from a default one.
    """

    def __init__(self, root):
        self.store = Store(root)

    def cell(self, method="dm", dataset="cifar10", ipc=1, seed=0, schedule="paper", budget="strict", **more):
        fields = {"precision": "float32", "version": 1, "hyper": {"lr": 1.0}} | more
        return Cell(method, dataset, ipc, seed, schedule, budget, **fields)

    def ask(self, cell, protocols=("unified",), networks=("convnet",), nets=3):
        factor = 1.0 if cell.schedule == "paper" else 0.05
        asked = [Evaluation(p, n, nets, unified(cell.ipc), factor) for p in protocols for n in networks]
        self.store.announce(Job(cell, tuple(asked), card=card_of(cell)))
        return asked

    def missing(self, protocols=("unified",), networks=("convnet",), **fields):
        self.ask(self.cell(**fields), protocols, networks)

    def failed(self, error="budget too small", message="needs 40 floats", protocols=("unified",), **fields):
        cell = self.cell(**fields)
        self.ask(cell, protocols)
        self.store.fail(
            cell, Failure(cell.config(), error, message, "Traceback (most recent)", "2026-11-22T14:00:00+00:00")
        )

    def done(self, accuracies, protocols=("unified",), networks=("convnet",), asked=None, extra=None, **fields):
        """`accuracies`: fractions, one per network. `extra`: sections of the result to be merged in."""
        cell = self.cell(**fields)
        evaluations = self.ask(cell, protocols, networks, asked or len(accuracies))
        result = self._result(cell, evaluations, accuracies)
        for name, section in (extra or {}).items():
            result[name] = result[name] | section
        write_json(self.store.directory(cell) / RESULT, sealed(result))
        return self.store.directory(cell)

    def _result(self, cell, evaluations, accuracies):
        classes, shape, train = SIZES.get(cell.dataset, (10, [3, 32, 32], 50000))
        floats = (cell.ipc * classes or train) * shape[0] * shape[1] * shape[2]
        return {
            "format": RESULT_FORMAT,
            "key": cell.key,
            "cell": cell.config(),
            "method": as_json(card_of(cell)),
            "dataset": {
                "title": "CIFAR-10" if cell.dataset == "cifar10" else cell.dataset,
                "published": PUBLISHED.get(cell.dataset, ""),
                "classes": classes,
                "image_shape": shape,
                "train_images": train,
                "test_images": 10000,
            },
            "condensation": {
                "steps": 1000,
                "seconds": 12.5,
                "peak_memory_mib": 512.25,
                "floats": floats,
                "budget_floats": floats,
                "budget_multiple": 1.0,
                "bytes": 4 * floats,
                "images": cell.ipc * classes or train,
                "images_per_class": float(cell.ipc or train / classes),
                "train_images": train,
                "container": "pixels",
                "space": "normalised",
                "notes": {},
            },
            "evaluations": [
                {
                    "protocol": e.protocol,
                    "network": e.network,
                    "recipe": dataclasses.asdict(e.recipe),
                    "factor": e.factor,
                    "steps": 10000,
                    "epochs": 10000.0,
                    "images": cell.ipc * classes or train,
                    "accuracies": list(accuracies),
                    "seconds": 3.25,
                    "peak_memory_mib": None,
                }
                for e in evaluations
            ],
            "environment": {
                "device": "CPU 2 threads",
                "torch": "2.15.0",
                "python": "3.11.7",
                "package": "0.1.0",
            },
            "finished": "2026-11-22T14:00:00+00:00",
        }

    def losses(self, directory, values, phase="condense"):
        lines = [
            {"phase": phase, "step": 10 * n, "seconds": 0.1 * n, "loss": value} for n, value in enumerate(values, 1)
        ]
        (directory / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def preview(self, directory, size=(80, 80)):
        Image.new("RGB", size, (200, 30, 60)).save(directory / "preview.png")


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "results")


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory):
    """A folder that the tests of one file share."""
    return Folder(tmp_path_factory.mktemp("shared") / "results")


@pytest.fixture
def without_plots(monkeypatch):
    """Drawing takes most of a report's time; tests of its numbers do without."""
    monkeypatch.setattr(plots, "draw", lambda *_: [])
