"""Order, titles, colours and markers: one look for a method in every table and plot of the report.

The hues are Paul Tol's "muted" scheme, safe for the common kinds of colour blindness; a marker of its own
and, for variants, a broken line tell apart what colour alone would not. Relatives share a hue (CAFE and
CAFE+DSA, IDC and IDC-I, HMN and its controls); reference rows are grey.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

INK = "#1f2328"
GREY = "#7a7f87"

CONTAINERS = {
    "pixels": "Pixels",
    "idc": "Multi-formation (IDC)",
    "haba": "Bases × hallucinators (HaBa)",
    "linba": "Addressed bases (LinBa)",
    "hmn": "Hierarchical memory (HMN)",
}
"""Rows of the container table."""

DATASETS = {
    "digits": "Digits",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "svhn": "SVHN",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tiny-imagenet": "Tiny ImageNet",
}


Key = tuple[str, str]
"""(method, variant): each has a look of its own."""


@dataclass(frozen=True)
class Look:
    colour: str
    marker: str
    line: str = "-"


WHOLE = Look(INK, "", "--")
"""The look of the whole training set."""

_LOOKS = {
    "whole": WHOLE,
    "random": Look(GREY, "o", ":"),
    "herding": Look(GREY, "<", ":"),
    "kcenter": Look(GREY, ">", ":"),
    "dc": Look("#332288", "o"),
    "dsa": Look("#4fa8d8", "s"),
    "dm": Look("#44aa99", "^"),
    "cafe": Look("#999933", "D"),
    "cafe-dsa": Look("#999933", "d", "--"),
    "mtt": Look("#117733", "v"),
    "idc": Look("#cc6677", "P"),
    "idc-i": Look("#cc6677", "p", "--"),
    "haba": Look("#d8a62a", "X"),
    "linba": Look("#882255", "h"),
    "hmn": Look("#aa4499", "*"),
    "hmn-noprune": Look("#aa4499", "8", "--"),
    "hmn-random": Look("#aa4499", "H", ":"),
}
"""Colours and markers for the methods of the suite, and nothing else by name; any other method takes a spare one."""

_SPARE = [
    Look(colour, marker, line)
    for line, marker in (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"))
    for colour in ("#8c564b", "#0077bb", "#ee7733", "#5c6b1e", "#6a51a3")
]


def looks(keys: list[Key]) -> dict[Key, Look]:
    """Return a look for every (method, variant).

    The first variant of a method that the suite knows has the method's own look; all others take spare ones.
    """
    own = {method: (method, variant) for method, variant in sorted(keys, reverse=True) if method in _LOOKS}
    others = sorted(set(keys) - set(own.values()))
    spare = {key: _SPARE[number % len(_SPARE)] for number, key in enumerate(others)}
    return {key: _LOOKS[method] for method, key in own.items()} | spare


def container_rank(container: str) -> int:
    return list(CONTAINERS).index(container) if container in CONTAINERS else len(CONTAINERS)


def dataset_rank(dataset: str) -> tuple[int, str]:
    known = list(DATASETS)
    return (known.index(dataset), "") if dataset in DATASETS else (len(DATASETS), dataset)


def ipc_rank(ipc: int) -> float:
    """Return a sorting key: ascending, the whole set (0) last."""
    return ipc or float("inf")


def schedule_rank(schedule: str) -> tuple[int, float, str]:
    """Return a sorting key: `paper` first, then fractions from long to short, then `quick`."""
    try:
        return 1, -float(schedule), schedule
    except ValueError:
        return (0 if schedule == "paper" else 2), 0.0, schedule


def slug(name: str, longest: int = 40) -> str:
    """Return a part of a file name or anchor for any name, such as a folder path; of a long name, its end."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[-longest:].strip("-") or "unnamed"
