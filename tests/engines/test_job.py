"""Running a job: what is stored, what is not done twice, what a failure leaves behind, damage to a condensed set."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from benchmark import data
from benchmark.engines.job import CONDENSED, JobRunner, draws_of
from benchmark.evaluation.evaluate import at_once
from benchmark.grid import registry
from benchmark.store.cells import Evaluation
from benchmark.store.condensed_set import ArtifactError, load_artifact
from benchmark.store.folder import Store
from benchmark.store.records import as_json
from benchmark.system.errors import Stopped
from benchmark.system.files import sealed
from benchmark.system.runtime import Runtime
from benchmark.testing import short_job
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import Training
from tests.toys import SHORT, Drift, Failing, toy_job

CPU = Runtime(torch.device("cpu"))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture
def run(store, digits, toys):
    """run(job, should_stop) -> the result."""
    return lambda job, stop=lambda: False: JobRunner(store, CPU, should_stop=stop).run(job, digits)


def stamp(path):
    return path.stat().st_mtime_ns, path.read_bytes()


def unified(nets=2, network="convnet", protocol="unified", recipe=SHORT):
    return Evaluation(protocol, network, nets, recipe, 1.0)


def test_the_method_is_handed_what_the_job_says(run, digits, monkeypatch):
    tasks, condense = [], Drift.condense
    monkeypatch.setattr(Drift, "condense", lambda self, task, run: tasks.append(task) or condense(self, task, run))
    run(replace(toy_job(ipc=2, seed=3), microbatch=7))
    (task,) = tasks
    assert (task.ipc, task.seed, task.microbatch) == (2, 3, 7)
    assert task.validation is None


def test_what_is_stored(run, store, digits):
    job = toy_job(ipc=3)
    result = run(job)
    directory = store.directory(job.cell)
    assert sorted(path.name for path in directory.iterdir()) == [
        "condensed.safetensors", "config.json", "preview.png", "result.json", "steps.jsonl",
    ]  # fmt: skip
    assert json.loads((directory / "result.json").read_text()) == sealed(as_json(result))
    assert store.result(job.cell) == result
    condensation = result.condensation
    assert condensation.steps == 6
    assert condensation.floats == condensation.budget_floats == 3 * 10 * 64
    assert condensation.budget_multiple == 1.0
    assert (condensation.images, condensation.images_per_class) == (30, 3)
    assert condensation.notes == {"mode": "drift"}
    assert condensation.train_images == len(digits.train)
    (entry,) = result.evaluations
    assert (entry.protocol, entry.network, entry.steps, entry.images) == ("unified", "convnet", 3, 30)
    assert len(entry.accuracies) == 2
    assert all(0 <= accuracy <= 1 for accuracy in entry.accuracies)
    phases = {json.loads(line)["phase"] for line in (directory / "steps.jsonl").read_text().splitlines()}
    assert phases == {"condense", "evaluate unified-convnet 0-2"}
    with safe_open(directory / CONDENSED, "pt") as file:
        assert sum(file.get_tensor(name).numel() for name in file.keys() if name != "labels") == condensation.floats


def log_of(store, job):
    lines = (store.directory(job.cell) / "steps.jsonl").read_text().splitlines()
    return [(line["phase"], line["step"], line["loss"]) for line in map(json.loads, lines) if "loss" in line]


def test_a_job_in_parts_is_the_job(run, store, digits, tmp_path):
    job = toy_job(evaluations=(unified(), unified(protocol="native", recipe=Recipe(steps=4))))
    expected = run(job)
    parts = JobRunner(Store(tmp_path / "parts"), CPU)
    parts.prepare(job, digits)
    parts.condense(job, digits)
    assert not (parts.store.directory(job.cell) / "result.json").exists()
    entries = []
    for evaluation in reversed(job.evaluations):
        entries += parts.score(replace(job, evaluations=(evaluation,)), digits)
    result = parts.conclude(job, digits, entries)
    scores = [[(e.protocol, e.accuracies) for e in found.evaluations] for found in (expected, result)]
    assert scores[0] == scores[1]
    assert log_of(parts.store, job) == log_of(store, job)
    assert parts.store.is_done(job)
    folders = [{path.name for path in s.directory(job.cell).iterdir()} for s in (store, parts.store)]
    assert folders[0] == folders[1]


def test_more_networks_are_added_to_the_result_without_condensing_again(run, store):
    job = toy_job(nets=2)
    first = run(job).evaluations[0]
    path = store.directory(job.cell) / CONDENSED
    before = stamp(path)
    second = run(toy_job(nets=5)).evaluations
    assert Drift.condensed == 1
    assert stamp(path) == before
    (entry,) = second
    assert entry.accuracies[:2] == first.accuracies
    assert len(entry.accuracies) == 5
    assert entry.seconds > first.seconds
    assert store.is_done(toy_job(nets=5))
    assert store.is_done(job)
    assert run(toy_job(nets=3)).evaluations == second  # fewer than there are: nothing to do, nothing lost


def test_three_and_two_more_score_like_five(run, store, tmp_path, digits):
    run(toy_job(nets=3))
    grown = run(toy_job(nets=5)).evaluations[0].accuracies
    at_once = JobRunner(Store(tmp_path / "other"), CPU).run(toy_job(nets=5), digits).evaluations[0].accuracies
    # One batched computation of five rounds otherwise than three and two: a borderline image may change sides.
    assert grown == pytest.approx(at_once, abs=2.01 / len(digits.test))
    assert grown[:3] == pytest.approx(at_once[:3], abs=2.01 / len(digits.test))


PLAIN = Runtime(torch.device("cpu"), "reference")
"""One network at a time, so that nothing rounds otherwise in another group."""


@pytest.fixture
def evaluated(digits, toys, monkeypatch):
    """evaluated(store, networks at once, should_stop) -> the evaluation of five networks."""

    def evaluated(store, together, stop=lambda: False):
        monkeypatch.setattr("benchmark.evaluation.evaluate.at_once", lambda *_: together)
        return JobRunner(store, PLAIN, should_stop=stop).run(toy_job(nets=5), digits).evaluations[0]

    return evaluated


@pytest.mark.parametrize("together", [1, 2, 4])
def test_groups_of_networks_score_like_all_at_once(evaluated, tmp_path, together):
    store = Store(tmp_path / "groups")
    found, expected = evaluated(store, together), evaluated(Store(tmp_path / "whole"), 5)
    assert len(expected.accuracies) == 5
    assert found.accuracies == expected.accuracies
    phases = dict.fromkeys(phase for phase, *_ in log_of(store, toy_job()) if phase != "condense")
    names = {1: ["0-1", "1-2", "2-3", "3-4", "4-5"], 2: ["0-2", "2-4", "4-5"], 4: ["0-4", "4-5"]}[together]
    assert list(phases) == [f"evaluate unified-convnet {name}" for name in names]


def test_an_evaluation_in_groups_goes_on_where_it_was_stopped(evaluated, tmp_path, monkeypatch):
    whole, parts = Store(tmp_path / "whole"), Store(tmp_path / "parts")
    expected, steps, step = evaluated(whole, 2), [], Training.step
    monkeypatch.setattr(Training, "step", lambda self, i: (steps.append((len(self.ensemble), i)), step(self, i))[1])
    with pytest.raises(Stopped, match="2-4 stopped after step 2"):
        evaluated(parts, 2, lambda: len(steps) == 5)
    found = evaluated(parts, 2)
    assert steps == [(2, 0), (2, 1), (2, 2)] * 2 + [(1, 0), (1, 1), (1, 2)]
    assert found.accuracies == expected.accuracies
    assert log_of(parts, toy_job()) == log_of(whole, toy_job())
    assert found.seconds > 0


@pytest.mark.parametrize(("precision", "gib", "together"), [("float32", 24, 4), ("float32", 1, 1), ("reference", 1, 7)])
def test_networks_are_grouped_by_the_memory_of_the_gpu(monkeypatch, precision, gib, together):
    monkeypatch.setattr(Runtime, "gpu_bytes", lambda _: gib * 2**30)
    spec = data.spec("cifar10", Path())
    there = Runtime(torch.device("cuda"), precision)
    assert at_once(unified(7, "densenet121", recipe=Recipe(steps=1, batch=64)), 100, spec, there) == together


def test_another_network_and_another_protocol_are_added(run, store):
    longer = Recipe(steps=4, batch=16)
    run(toy_job())
    before = stamp(store.directory(toy_job().cell) / CONDENSED)
    asked = (unified(), unified(1, "alexnet"), unified(1, protocol="native", recipe=longer))
    result = run(toy_job(evaluations=asked))
    assert Drift.condensed == 1
    assert stamp(store.directory(toy_job().cell) / CONDENSED) == before
    found = {(e.protocol, e.network, e.steps, len(e.accuracies)) for e in result.evaluations}
    assert found == {("unified", "convnet", 3, 2), ("unified", "alexnet", 3, 1), ("native", "convnet", 4, 1)}
    # Asking for less again takes nothing away.
    assert run(toy_job()).evaluations == result.evaluations


def test_both_protocols_share_the_training_where_their_recipes_are_equal(run, monkeypatch):
    trained = []
    monkeypatch.setattr(
        "benchmark.evaluation.evaluate.Ensemble",
        lambda network, seeds, runtime: trained.append(len(seeds)) or Ensemble(network, seeds, runtime),
    )
    from benchmark.training.trainer import Ensemble

    both = (unified(2), unified(2, protocol="native"))
    one, other = run(toy_job(evaluations=both)).evaluations
    assert trained == [2]
    assert one.accuracies == other.accuracies
    assert one.seconds == other.seconds
    # Networks added under one name are there under the other; only what is missing is trained.
    grown = run(toy_job(evaluations=(unified(4), unified(3, protocol="native")))).evaluations
    assert trained == [2, 2]
    by_name = {entry.protocol: entry.accuracies for entry in grown}
    assert by_name["native"][:2] == by_name["unified"][:2] == one.accuracies
    assert len(by_name["unified"]) == 4
    assert len(by_name["native"]) >= 3


def test_the_evaluation_of_networks_to_come_is_not_the_one_of_those_there(run):
    job = toy_job(nets=6)
    accuracies = run(job).evaluations[0].accuracies
    assert len(set(accuracies)) > 1


@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "text", "another cell", "another program", "folder"])
def test_a_damaged_condensed_set_is_named_and_condensed_again(run, store, damage):
    job = toy_job()
    good = run(job)
    path = store.directory(job.cell) / CONDENSED
    content = path.read_bytes()
    (store.directory(job.cell) / "result.json").unlink()
    if damage == "another cell":
        other = toy_job(seed=1)
        run(other)
        path.write_bytes((store.directory(other.cell) / CONDENSED).read_bytes())
    elif damage == "another program":
        from safetensors.torch import save

        path.write_bytes(save({"container.pixels": torch.zeros(10, 1, 8, 8)}))
    elif damage != "folder":
        path.write_bytes(
            {"truncated": content[:-5], "empty": b"", "noise": content[::-1], "text": b"hello"}.get(damage, b"")
        )
    Drift.condensed = 0
    if damage == "folder":
        path.unlink()
        path.mkdir()
        with pytest.warns(UserWarning, match=str(path)), pytest.raises(OSError, match="directory"):
            run(job)
        return
    with pytest.warns(UserWarning, match=str(path)):
        again = run(job)
    assert Drift.condensed == 1
    assert path.read_bytes() != b""
    assert again.evaluations[0].accuracies == good.evaluations[0].accuracies


def test_a_broken_artifact_is_refused(run, store, digits):
    """Bits flipped anywhere in the file: it is refused by an ArtifactError, or read as it was written."""
    job = toy_job()
    run(job)
    path = store.directory(job.cell) / CONDENSED
    content = path.read_bytes()
    whole = load_artifact(path, digits)
    length = 8 + int.from_bytes(content[:8], "little")
    draw = torch.Generator().manual_seed(1)
    refused = 0
    for trial in range(150):
        place = int(torch.randint(0, length if trial % 3 else len(content), (), generator=draw))
        flipped = content[place] ^ (1 << int(torch.randint(0, 8, (), generator=draw)))
        path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
        try:
            found = load_artifact(path, digits)
        except ArtifactError as error:
            refused += str(path) in str(error)
        else:
            assert found.card == whole.card
            assert torch.equal(found.container.pixels, whole.container.pixels)
    assert refused > 100


def test_an_artifact_of_another_data_set_is_refused(run, store, digits):
    import dataclasses

    job = toy_job()
    run(job)
    spec = dataclasses.replace(digits.spec, classes=11)
    with pytest.raises(ArtifactError, match="10 classes"):
        load_artifact(store.directory(job.cell) / CONDENSED, dataclasses.replace(digits, spec=spec))


@pytest.mark.parametrize(
    ("mode", "word", "said"),
    [("raise", "error", "RuntimeError: the loss went round the corner"), ("nan", "loss not finite", "loss is nan"),
     ("memory", "out of memory", ""), ("allocate", "out of memory", ""), ("disk", "disk full", "No space left"),
     ("budget", "budget too small", "no room for a decoder"), ("large", "budget too small", "2.00 times the budget")],
)  # fmt: skip
def test_failures_are_recorded_with_their_word_and_never_count(run, store, mode, word, said):
    job = toy_job(Failing, mode=mode)
    with pytest.raises(Exception):  # noqa: B017, PT011
        run(job)
    assert not store.is_done(job)
    (record,) = store.records()
    assert (record.status, record.failure.error) == ("failed", word)
    assert said in record.failure.message
    assert "Traceback" in record.failure.traceback
    assert not (record.directory / "result.json").exists()
    assert not (record.directory / CONDENSED).exists()


def test_a_full_disk_while_saving_leaves_nothing_that_looks_finished(run, store, monkeypatch):
    job = toy_job()

    def full(tensors, path, metadata):
        if path.name.startswith(f".{CONDENSED}"):
            path.write_bytes(b"half of it")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        return save_file(tensors, path, metadata)

    monkeypatch.setattr("benchmark.system.files.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        run(job)
    monkeypatch.undo()
    (record,) = store.records()
    assert (record.status, record.failure.error) == ("failed", "disk full")
    assert not (record.directory / CONDENSED).exists()
    run(job)
    assert store.records()[0].status == "done"


def test_a_stop_is_no_failure(run, store):
    with pytest.raises(Stopped):
        run(toy_job(), lambda: True)
    (record,) = store.records()
    assert record.status == "missing"
    assert (record.directory / "checkpoint").is_dir()


def test_a_failed_attempt_to_add_keeps_the_result(run, store, monkeypatch):
    run(toy_job())
    monkeypatch.setattr("benchmark.engines.job.evaluate", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        run(toy_job(nets=9))
    assert store.is_done(toy_job())
    (record,) = store.records()
    assert len(record.result.evaluations[0].accuracies) == 2
    assert record.failure.error == "out of memory"


def test_seeds_are_independent_and_repeatable(run, store, tmp_path, digits):
    pixels = {}
    for seed in (0, 1):
        job = toy_job(seed=seed)
        run(job)
        pixels[seed] = load_artifact(store.directory(job.cell) / CONDENSED, digits).container.pixels
    assert not torch.equal(pixels[0], pixels[1])
    again = Store(tmp_path / "again")
    JobRunner(again, CPU).run(toy_job(seed=1), digits)
    path = again.directory(toy_job(seed=1).cell) / CONDENSED
    assert torch.equal(load_artifact(path, digits).container.pixels, pixels[1])


def test_a_control_draws_what_its_method_does(digits):
    """HMN pruned by margins and pruned at random, or not at all, are of one over-budget set."""
    cells = [short_job(registry.get(name), digits).cell for name in ("hmn", "hmn-random", "hmn-noprune")]
    hmn, pruned_at_random, _ = cells
    native = [replace(cell, budget="native") for cell in cells]
    assert [draws_of(cell) for cell in (*cells, *native)] == [hmn.key] * 6
    assert len({cell.key for cell in (*cells, *native)}) == 6
    assert draws_of(replace(pruned_at_random, seed=1)) == replace(hmn, seed=1).key != hmn.key


@pytest.mark.slow
def test_a_control_prunes_the_same_set(digits, tmp_path):
    memories, settings = [], {"warm_start": 2, "passes": 1, "n_data": 8, "aum_steps": 2, "beta_steps": 2}
    for name in ("hmn", "hmn-random"):
        job = short_job(registry.get(name), digits, 2, **settings)
        store = Store(tmp_path / name)
        JobRunner(store, CPU).run(job, digits)
        container = load_artifact(store.directory(job.cell) / CONDENSED, digits).container
        memories.append(container.class_memory)  # which no pruning touches
    assert torch.equal(*memories)
