"""Published accuracies: the packaged tables, and how the reference row of a cell is found.

The first row of a (method, data set, IPC) is the one to print beside a measurement. Later rows are other sources for
the same number and are never averaged in.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

IDENTIFIERS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN", "tiny-imagenet": "TinyImageNet"}
"""What the published tables call a data set, used if no stored result says it."""

EVIDENCE = {
    "official": "from the authors' own code or readme",
    "secondary": "quoted by another paper or page; the original table was not read",
    "unverified": "recalled without a source that could be read; not to be taken as fact",
}


@dataclass(frozen=True)
class Published:
    """One published accuracy, in percent, and how far it can be trusted."""

    accuracy: float
    std: float | None
    source: str
    evidence: str
    note: str

    @property
    def describe(self) -> str:
        spread = f" ± {self.std:g}" if self.std is not None else ""
        note = f"; {self.note}" if self.note else ""
        return f"published {self.accuracy:g}{spread} ({self.evidence}; {self.source}{note})"


@cache
def _table(name: str, *key: str) -> dict[tuple[str, ...], Published]:
    found: dict[tuple[str, ...], Published] = {}
    with (files(__package__) / "published" / name).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if not row["accuracy"]:
                continue
            # Nobody may promote a number by a typing error: an unknown evidence word counts as the weakest.
            evidence = row["evidence"] if row["evidence"] in EVIDENCE else "unverified"
            std = float(row["std"]) if row["std"] else None
            value = Published(float(row["accuracy"]), std, row["source"], evidence, row["protocol_note"])
            found.setdefault(tuple(row[field].lower() for field in key), value)
    return found


CONTAINER_LOSSES = {"idc": "gradient-matching"}
"""What the published container table calls the objective of a method."""


def lookup_container(container: str, objective: str, identifier: str, ipc: int, network: str) -> Published | None:
    """Return the published accuracy of a container under an objective, or None. All of them are the ConvNet's."""
    if network != "convnet":
        return None
    table = _table("published_containers.csv", "container", "loss", "dataset", "ipc")
    return table.get((container, CONTAINER_LOSSES.get(objective, ""), identifier.lower(), str(ipc)))


def lookup(method: str, identifier: str, ipc: int, network: str) -> Published | None:
    """Return the reference row of a cell, or None.

    `identifier` is the data set's name in the published tables ("" if it has none). Networks other than the ConvNet are
    looked up in the cross-architecture table, among sets condensed with the ConvNet.
    """
    cell = (method.lower(), identifier.lower(), str(ipc))
    if network == "convnet":
        return _table("published.csv", "method", "dataset", "ipc").get(cell)
    table = _table("published_cross_arch.csv", "method", "dataset", "ipc", "condense_net", "eval_net")
    return table.get((*cell, "convnet", network.lower()))
