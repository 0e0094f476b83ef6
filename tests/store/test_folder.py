"""The results folder: what counts as done, what damage does, and that nothing half-written is ever seen."""

import dataclasses
import json
import os
import threading
import warnings

import numpy as np
import pytest
import torch

from benchmark.store.cells import RESULT_FORMAT, Evaluation
from benchmark.store.folder import Store, holds, same_training
from benchmark.store.records import EvaluationResult, Failure, Request, Result, as_json, from_json
from benchmark.system.files import write_atomically, write_json
from benchmark.training.recipes import Recipe
from tests.toys import SHORT, toy_job


def evaluation_entry(accuracies=(0.5, 0.75), protocol="unified", network="convnet", recipe=SHORT, factor=1.0):
    return {
        "protocol": protocol, "network": network, "recipe": dataclasses.asdict(recipe), "factor": factor, "steps": 3,
        "accuracies": list(accuracies), "seconds": 1.5, "peak_memory_mib": None,
    }  # fmt: skip


def json_of(job):
    """What result.json must hold at least."""
    return {
        "format": RESULT_FORMAT, "key": job.cell.key, "cell": job.cell.config(), "condensation": {"seconds": 1.0},
        "evaluations": [evaluation_entry()], "environment": {"device": "cpu"},
    }  # fmt: skip


def result_of(job):
    return from_json(json_of(job), Result)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture
def job():
    return toy_job()


def test_looking_touches_nothing(store, job):
    assert store.records() == []
    assert store.result(job.cell) is None
    assert not store.is_done(job)
    assert store.missing_evaluations(job) == job.evaluations
    assert not store.root.exists()


def test_announced_then_failed_then_done(store, job):
    directory = store.announce(job)
    (record,) = store.records()
    assert (record.status, record.directory, record.result, record.failure) == ("missing", directory, None, None)
    assert record.config == job.cell.config()
    assert record.cell == job.cell
    assert record.requested == (Request("unified", "convnet", 2),)
    assert not store.is_done(job)

    store.fail(job.cell, Failure(error="out of memory"))
    (record,) = store.records()
    assert (record.status, record.failure) == ("failed", Failure(error="out of memory"))
    assert not store.is_done(job)

    (directory / "checkpoint").mkdir()
    (directory / "checkpoint" / "condense.safetensors").write_bytes(b"x")
    (directory / ".condensed.safetensors.a1b2").write_bytes(b"what a killed process left")
    (directory / ".config.json.c3d4").write_bytes(b"what another program that shares the folder is writing")
    store.finish(job.cell, result_of(job))
    (record,) = store.records()
    assert (record.status, record.failure) == ("done", None)
    assert record.result == result_of(job)
    assert store.is_done(job)
    assert sorted(path.name for path in directory.iterdir()) == [".config.json.c3d4", "config.json", "result.json"]


def test_a_kill_in_the_middle_of_finishing_leaves_no_contradiction(store, job, monkeypatch):
    directory = store.announce(job)
    store.fail(job.cell, Failure(error="error"))
    monkeypatch.setattr("benchmark.store.folder.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.finish(job.cell, result_of(job))
    monkeypatch.undo()
    assert not (directory / "result.json").exists()
    assert not store.is_done(job)


def test_a_failure_never_counts_as_done_and_takes_no_result_away(store, job):
    store.announce(job)
    store.finish(job.cell, result_of(job))
    store.fail(job.cell, Failure(error="out of memory"))
    assert store.is_done(job)
    (record,) = store.records()
    assert record.result == result_of(job)
    assert record.failure == Failure(error="out of memory")


DAMAGE = {
    "empty": "",
    "truncated": '{"format": 1, "key": ',
    "not an object": "[1, 2]",
    "a number": "3",
    "null": "null",
    "binary": b"\xff\xfe\x00",
    "deep": "[" * 100_000,
    "empty object": "{}",
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_result_is_named_and_redone(store, job, content):
    path = store.announce(job) / "result.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.warns(UserWarning, match=str(path)):
        assert not store.is_done(job)
    with pytest.warns(UserWarning, match=str(path)):
        (record,) = store.records()
    assert record.status == "missing"
    store.finish(job.cell, result_of(job))
    assert store.is_done(job)


def _changes():
    yield "another cell's key", lambda r: r | {"key": "0" * 16}
    yield "another format", lambda r: r | {"format": RESULT_FORMAT + 1}
    for field in ("format", "key", "cell", "condensation", "evaluations", "environment"):
        yield f"no {field}", lambda r, f=field: {k: v for k, v in r.items() if k != f}
        yield f"{field} null", lambda r, f=field: r | {f: None}
    yield "evaluations an object", lambda r: r | {"evaluations": {}}
    yield "an evaluation a number", lambda r: r | {"evaluations": [3]}
    for field in ("protocol", "network", "recipe", "factor", "steps", "accuracies", "seconds"):
        yield (
            f"evaluation without {field}",
            lambda r, f=field: r | {"evaluations": [{k: v for k, v in e.items() if k != f} for e in r["evaluations"]]},
        )
    for value in (None, 3, "0.5", {"a": 1}, ["0.5"], [None], [[0.5]], [True], [1.5], [-0.1], [float("nan")]):
        yield (
            f"accuracies {value}",
            lambda r, v=value: r | {"evaluations": [e | {"accuracies": v} for e in r["evaluations"]]},
        )
    yield "seconds a word", lambda r: r | {"evaluations": [e | {"seconds": "x"} for e in r["evaluations"]]}


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in _changes()])
def test_a_result_of_something_else_is_named_and_redone(store, job, change):
    path = store.announce(job) / "result.json"
    path.write_text(json.dumps(change(json_of(job))))
    with pytest.warns(UserWarning, match=f"{path} is (not a result of this cell|damaged)"):
        assert not store.is_done(job)
    with pytest.warns(UserWarning, match=f"{path} is (not a result of this cell|damaged)"):
        (record,) = store.records()
    assert record.result is None


def test_no_flipped_bit_in_a_result_goes_unnoticed(store, job):
    path = store.announce(job) / "result.json"
    store.finish(job.cell, result_of(job))
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 7]) + content[place + 1 :])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = store.result(job.cell)
        # What still reads as the result says the same: a space that became a tab, or the checksum's own name.
        assert found is None or found == result_of(job)
        assert bool(said) == (found is None)
    path.write_text(json.dumps(json_of(job)))  # as it was written before there were checksums
    assert store.is_done(job)


def test_a_result_that_is_a_folder(store, job):
    path = store.announce(job) / "result.json"
    path.mkdir()
    with pytest.warns(UserWarning, match="is damaged"):
        assert not store.is_done(job)


def test_folders_that_hold_no_cell_are_skipped(store, job, recwarn):
    store.announce(job)
    (store.runs / "notes").mkdir()
    (store.runs / ".DS_Store").write_bytes(b"x")
    (store.runs / "readme.txt").write_text("mine")
    assert len(store.records()) == 1
    assert not recwarn.list


@pytest.mark.parametrize("content", ["{", "[]", '{"key": 3}', '{"cell": 3}'])
def test_a_result_outlives_a_damaged_config(store, job, content):
    """The cell counts as done, so the report must show it: what it was is in the result as well."""
    directory = store.announce(job)
    store.finish(job.cell, result_of(job))
    (directory / "config.json").write_text(content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        (record,) = store.records()
    assert bool(said) == (content in ("{", "[]"))
    assert (record.status, record.cell, record.config) == ("done", job.cell, job.cell.config())
    assert store.is_done(job)


@pytest.mark.parametrize("requested", [None, 3, "x", [3, {"protocol": "unified"}]])
def test_a_damaged_request_is_named_and_breaks_nothing(store, job, requested):
    path = store.announce(job) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"requested": requested}))
    with pytest.warns(UserWarning, match=f"{path} is damaged"):
        (record,) = store.records()
    assert (record.cell, record.requested) == (job.cell, ())


def test_a_folder_whose_config_names_no_cell_is_named(store):
    directory = store.runs / "broken"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"key": "x", "cell": {"method": 3}}')
    with pytest.warns(UserWarning, match="config.json names no cell"):
        assert store.records() == []


@pytest.mark.parametrize("content", ['{"error": 3}', "[]", "{"])
def test_a_damaged_failure_is_named_and_ignored(store, job, content):
    path = store.announce(job) / "failure.json"
    path.write_text(content)
    with pytest.warns(UserWarning, match=str(path)):
        (record,) = store.records()
    assert record.status == "missing"


def test_what_other_versions_wrote_is_read(store, job):
    """An older version lacks fields, a newer one has more; those that identify a cell or a recipe are kept whole."""
    newer = json_of(job) | {"planet": "Mars"}
    newer["condensation"] |= {"joules": 3.0}
    newer["evaluations"][0]["recipe"]["warm_up"] = 5
    write_json(store.announce(job) / "result.json", newer)
    found = store.result(job.cell)
    assert (found.condensation.seconds, found.condensation.pruning, found.method) == (1.0, None, None)
    assert found.evaluations[0].recipe["warm_up"] == 5
    assert store.missing_evaluations(job) == job.evaluations, "another recipe is another training"


def test_notes_are_json_or_refused(job):
    noted = dataclasses.replace(
        result_of(job).condensation, notes={"score": np.float64(0.5), "torch": torch.__version__}
    )
    assert as_json(noted)["notes"] == {"score": 0.5, "torch": str(torch.__version__)}
    with pytest.raises(TypeError):
        as_json(dataclasses.replace(noted, notes={"object": object()}))


def test_a_record_is_its_json(job):
    for record in (result_of(job), Failure(job.cell.config(), "error", "what", "where", "when")):
        assert from_json(json.loads(json.dumps(as_json(record))), type(record)) == record


def test_a_reader_sees_the_old_content_or_the_new(tmp_path):
    path = tmp_path / "file"
    contents = [str(i) * 200_000 for i in range(2)]
    write_atomically(path, contents[0])
    stop, torn = threading.Event(), []

    def read():
        while not stop.is_set():
            if path.read_text() not in contents:
                torn.append(True)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(60):
        write_atomically(path, contents[i % 2])
    stop.set()
    reader.join()
    assert not torn
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_that_json_does_not_know_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_which_stored_evaluation_is_the_wanted_one():
    wanted = Evaluation("unified", "convnet", 2, SHORT, 1.0)
    entry = from_json(json.loads(json.dumps(evaluation_entry())), EvaluationResult)  # as it comes back from the disk
    assert holds(entry, wanted)
    assert holds(entry, Evaluation("unified", "convnet", 1, SHORT, 1.0))
    assert not holds(entry, Evaluation("unified", "convnet", 3, SHORT, 1.0))
    assert not holds(entry, Evaluation("native", "convnet", 2, SHORT, 1.0))
    assert same_training(entry, Evaluation("native", "convnet", 9, SHORT, 1.0))
    for other in (
        Evaluation("unified", "alexnet", 2, SHORT, 1.0),
        Evaluation("unified", "convnet", 2, SHORT, 0.5),
        Evaluation("unified", "convnet", 2, Recipe(steps=3, batch=16, lr=0.02), 1.0),
        Evaluation("unified", "convnet", 2, Recipe(steps=3, batch=16, lr=None), 1.0),
    ):
        assert not same_training(entry, other)
        assert not holds(entry, other)


def test_a_result_that_came_back_from_another_node_is_done_here(store, job, tmp_path):
    there = Store(tmp_path / "there")
    there.announce(job)
    there.finish(job.cell, result_of(job))
    store.announce(job)
    store.finish(job.cell, there.result(job.cell))
    assert store.is_done(job)
    assert store.result(job.cell) == there.result(job.cell)
