"""A cell's key: everything that can change its result, and nothing else."""

import dataclasses
import hashlib

import pytest

from benchmark.system.files import canonical_json
from tests.toys import toy_job

CELL = toy_job().cell
CHANGES = {
    "method": "other", "dataset": "mnist", "ipc": 2, "seed": 1, "schedule": "paper", "budget": "native",
    "precision": "reference", "version": 2, "hyper": CELL.hyper | {"rate": 0.2}, "objective": "dm",
    "objective_hyper": {"x": 1}, "variant": "rate=0.2",
}  # fmt: skip


def test_every_field_changes_the_key():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(CELL)}
    keys = {dataclasses.replace(CELL, **{name: value}).key for name, value in CHANGES.items()} | {CELL.key}
    assert len(keys) == len(CHANGES) + 1


def test_the_key_does_not_depend_on_the_order_of_settings():
    turned = dataclasses.replace(CELL, hyper=dict(reversed(CELL.hyper.items())))
    assert list(turned.hyper) != list(CELL.hyper)
    assert turned.key == CELL.key


def test_the_key_is_a_hash_of_the_printed_configuration():
    assert canonical_json({"b": [1, 0.1, None], "a": True}) == '{"a":true,"b":[1,0.1,null]}'
    assert CELL.key == hashlib.sha256(canonical_json(CELL.config()).encode()).hexdigest()[:16]
    assert CELL.directory == f"drift-digits-ipc1-seed0-{CELL.key}"


@pytest.mark.parametrize("dataset", ["folder:/data/My Pets (2)!", "folder:/" + "x" * 300, "folder:/données/été"])
def test_directories_are_plain_names(dataset):
    name = dataclasses.replace(CELL, dataset=dataset).directory
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(name) < 120


def test_labels_say_what_differs():
    assert CELL.label == "drift digits IPC 1 seed 0"
    assert dataclasses.replace(CELL, ipc=0, variant="rate=2").label == "drift [rate=2] digits whole set seed 0"
