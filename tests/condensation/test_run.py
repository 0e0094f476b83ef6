"""The loop of a cell: phases, stops and resumes to the same bits, logs, notes, values that are not finite."""

import contextlib
import json
import math

import pytest
import torch

from benchmark.condensation.run import LOG, LOG_LINES, Run, append_log
from benchmark.system import checkpoint
from benchmark.system.errors import NotFinite, Stopped

STEPS = 6


class Toy:
    """A little of everything a method keeps: a module, two optimisers, a generator, tensors, a nested state."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(1)
        self.module = torch.nn.Linear(3, 2)
        torch.nn.init.normal_(self.module.weight, generator=self.generator)
        torch.nn.init.zeros_(self.module.bias)
        self.sgd = torch.optim.SGD([self.module.weight], 0.1, momentum=0.9)
        self.adam = torch.optim.Adam([self.module.bias], 0.01)
        self.total = torch.zeros(2, dtype=torch.float64)
        self.history = {"per step": {}, "list": [], "best": None}

    def state_dict(self):
        return self.history

    def load_state_dict(self, state):
        self.history = state

    def state(self):
        return {"module": self.module, "sgd": self.sgd, "adam": self.adam, "total": self.total, "history": self}

    def step(self, step, run):
        images = torch.randn(4, 3, generator=self.generator)
        loss = self.module(images).sin().square().sum()
        for optimiser in (self.sgd, self.adam):
            optimiser.zero_grad()
        loss.backward()
        self.sgd.step()
        self.adam.step()
        self.total += torch.rand(2, generator=self.generator, dtype=torch.float64)
        self.history["per step"][step] = loss.detach().clone()
        self.history["list"].append([step, loss.item()])
        self.history["best"] = min(loss.item(), self.history["best"] or math.inf)
        run.log(loss=loss)

    def bits(self):
        return [
            self.module.weight.detach().clone(), self.module.bias.detach().clone(), self.total.clone(),
            self.generator.get_state(), *self.history["per step"].values(), self.history["list"], self.history["best"],
        ]  # fmt: skip


def equal(one, two):
    return len(one) == len(two) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, two, strict=True)
    )


def work(run, toy, phases=("condense",)):
    for phase in phases:
        for step in run.loop(phase, STEPS, **toy.state()):
            toy.step(step, run)


def run_in(folder, toy, stop=lambda: False, key="key", **options):
    return Run(folder, key, 60.0, should_stop=stop, shared={"generator": toy.generator}, **options)


@pytest.fixture(scope="module")
def uninterrupted():
    toy = Toy()
    work(Run(shared={"generator": toy.generator}), toy)
    return toy.bits()


@pytest.mark.parametrize("stop_after", range(1, STEPS))
def test_one_stop_at_any_step(tmp_path, uninterrupted, stop_after):
    toy, asked = Toy(), []

    def stop():
        asked.append(None)
        return len(asked) == stop_after

    with pytest.raises(Stopped, match=f"condense stopped after step {stop_after} of {STEPS}"):
        work(run_in(tmp_path, toy, stop), toy)
    again = Toy()
    seen = []
    run = run_in(tmp_path, again)
    for step in run.loop("condense", STEPS, **again.state()):
        seen.append(step)
        again.step(step, run)
    assert seen == list(range(stop_after, STEPS))
    assert equal(again.bits(), uninterrupted)


def test_a_stop_at_every_step(tmp_path, uninterrupted):
    for attempt in range(1, STEPS):
        toy = Toy()
        with pytest.raises(Stopped, match=f"after step {attempt} of"):
            work(run_in(tmp_path, toy, lambda: True), toy)
    toy = Toy()
    work(run_in(tmp_path, toy, lambda: True), toy)  # the last step ends the phase: nothing is left to be stopped
    assert equal(toy.bits(), uninterrupted)


def test_a_finished_phase_is_restored_and_not_done_again(tmp_path, uninterrupted):
    toy = Toy()
    run = run_in(tmp_path, toy)
    work(run, toy)
    later = Toy()
    run2 = run_in(tmp_path, later)
    assert list(run2.loop("condense", STEPS, **later.state())) == []
    assert equal(later.bits(), uninterrupted)
    assert run2.phases["condense"]["steps"] == STEPS
    assert run2.phases["condense"]["seconds"] == pytest.approx(run.phases["condense"]["seconds"], abs=0.5)


def test_a_kill_without_warning_resumes_from_the_last_save(tmp_path, uninterrupted):
    """Every step is saved; a process that dies in the middle of step 4 does step 4 again."""
    toy = Toy()
    run = Run(tmp_path, "key", 0.0, shared={"generator": toy.generator})
    with pytest.raises(RuntimeError, match="killed"):  # noqa: PT012
        for step in run.loop("condense", STEPS, **toy.state()):
            toy.step(step, run)
            if step == 4:
                raise RuntimeError("killed")
    again, seen = Toy(), []
    run = run_in(tmp_path, again)
    for step in run.loop("condense", STEPS, **again.state()):
        seen.append(step)
        again.step(step, run)
    assert seen[0] == 4
    assert equal(again.bits(), uninterrupted)


def test_phases_go_on_where_they_were(tmp_path):
    one = Toy()
    work(Run(shared={"generator": one.generator}), one, ("features", "condense", "evaluate unified-convnet 0-3"))
    two, count = Toy(), []

    def stop():
        count.append(None)
        return len(count) == STEPS + 2  # in the second phase (the end of a phase does not ask)

    with pytest.raises(Stopped, match="condense stopped"):
        work(run_in(tmp_path, two, stop), two, ("features", "condense"))
    three = Toy()
    run = run_in(tmp_path, three)
    work(run, three, ("features", "condense", "evaluate unified-convnet 0-3"))
    assert equal(one.bits(), three.bits())
    assert set(run.phases) == {"features", "condense", "evaluate unified-convnet 0-3"}
    names = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    assert names == ["condense.safetensors", "evaluate-unified-convnet-0-3.safetensors", "features.safetensors"]


def test_a_phase_of_no_steps(tmp_path):
    toy = Toy()
    run = run_in(tmp_path, toy)
    assert list(run.loop("nothing", 0, **toy.state())) == []
    assert run.phases["nothing"] == {"steps": 0, "seconds": 0.0}


SKIPS = {2: 5, 6: 100}
"""Where a loop of ten steps goes on behind some of them: ahead, and beyond its end."""


def leaving_out(folder, stop=lambda: False, **options):
    """(the steps that a loop was handed, its run), with steps left out on the way."""
    run, taken, seen = Run(folder, "key", 60.0, should_stop=stop, **options), torch.zeros(1), []
    with contextlib.suppress(Stopped):
        for step in run.loop("condense", 10, taken=taken):
            taken += 1
            seen.append(step)
            run.log(loss=1.0)
            if step in SKIPS:
                run.skip_to(SKIPS[step])
    return seen, run


def test_steps_may_be_left_out_and_are_not_counted(tmp_path):
    told = []
    seen, run = leaving_out(tmp_path, progress=lambda phase, done, *_: told.append(done))
    assert seen == [0, 1, 2, 5, 6]
    assert told == [0, 1, 2, 5, 6, 10]
    assert run.phases["condense"]["steps"] == 5
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 5, 6, 10]
    again, later = leaving_out(tmp_path)
    assert again == [] and later.phases["condense"]["steps"] == 5


def test_steps_left_out_stay_out_behind_a_stop(tmp_path):
    together, attempts = [], 0
    while "condense" not in (found := leaving_out(tmp_path, lambda: True))[1].phases:
        together += found[0]
        attempts += 1
    assert together + found[0] == [0, 1, 2, 5, 6]
    assert attempts == 4
    assert found[1].phases["condense"]["steps"] == 5


def test_a_loop_does_not_go_back():
    run, seen = Run(), []
    for step in run.loop("condense", 3):
        seen.append(step)
        run.skip_to(0)
    assert seen == [0, 1, 2]


def interrupt(folder, after=3, **options):
    toy, asked = Toy(), []
    run = run_in(folder, toy, lambda: asked.append(None) or len(asked) == after, **options)
    with pytest.raises(Stopped):
        work(run, toy)
    return folder / "checkpoint" / "condense.safetensors"


def resumed_from(folder, steps=STEPS, **options):
    toy = Toy()
    run = run_in(folder, toy, **options)
    first = next(iter(run.loop("condense", steps, **toy.state())))
    return first, toy


@pytest.mark.parametrize("damage", ["empty", "truncated", "noise", "text", "directory"])
def test_a_damaged_checkpoint_starts_the_phase_anew(tmp_path, uninterrupted, damage):
    path = interrupt(tmp_path)
    content = path.read_bytes()
    path.unlink()
    if damage == "directory":
        path.mkdir()
        first, _ = resumed_with_warning(tmp_path, path)
        assert first == 0
        path.rmdir()
    else:
        path.write_bytes(
            {"empty": b"", "truncated": content[: len(content) - 9], "noise": content[::-1], "text": b"{}"}[damage]
        )
        first, toy = resumed_with_warning(tmp_path, path)
        assert first == 0
        assert equal(toy.bits(), Toy().bits())  # nothing of the damaged state was kept
    toy = Toy()
    work(run_in(tmp_path, toy), toy)
    assert equal(toy.bits(), uninterrupted)


def resumed_with_warning(folder, path):
    with pytest.warns(UserWarning, match=str(path)):
        return resumed_from(folder)


def test_flipped_bits_are_noticed(tmp_path, recwarn):
    """Whatever a disk does to a checkpoint, the phase starts: anew, or where it was with every bit as it was."""
    path = interrupt(tmp_path)
    content = path.read_bytes()
    first, toy = resumed_from(tmp_path)
    assert first == 3
    saved, fresh = toy.bits(), Toy().bits()
    draw = torch.Generator().manual_seed(0)
    length = 8 + int.from_bytes(content[:8], "little")
    kept = 0
    for trial in range(90):
        place = int(torch.randint(0, length if trial % 3 else len(content), (), generator=draw))
        bit = int(torch.randint(0, 8, (), generator=draw))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        first, toy = resumed_from(tmp_path)
        assert equal(toy.bits(), saved if first else fresh), "a damaged state was gone on from"
        kept += first > 0
    assert kept < 30


@pytest.mark.parametrize("change", ["key", "phase", "steps"])
def test_the_checkpoint_of_something_else_is_not_used(tmp_path, change):
    path = interrupt(tmp_path)
    if change == "phase":
        toy = Toy()
        checkpoint.save_state(
            path, {"generator": toy.generator} | toy.state(),
            {"key": "key", "phase": "features", "done": 3, "steps": STEPS, "seconds": 1.0, "notes": {}},
        )  # fmt: skip
    first, toy = resumed_from(tmp_path, steps=STEPS + (change == "steps"), key="other" if change == "key" else "key")
    assert first == 0
    assert equal(toy.bits(), Toy().bits())


def test_a_state_that_no_longer_fits_starts_the_phase_anew(tmp_path):
    """A method whose loop was changed without a new version number."""
    path = interrupt(tmp_path)
    toy = Toy()
    wider = {"module": torch.nn.Linear(5, 5), "extra": torch.zeros(1)}
    run = run_in(tmp_path, toy)
    with pytest.warns(UserWarning, match=f"{path} does not hold this state"):
        assert next(iter(run.loop("condense", STEPS, **wider))) == 0
    assert equal(toy.bits(), Toy().bits())


def test_a_header_without_its_fields_starts_the_phase_anew(tmp_path):
    path = interrupt(tmp_path)
    toy = Toy()
    for header in ({}, {"key": "key"}, {"phase": "condense", "steps": STEPS, "done": 3}):
        checkpoint.save_state(path, {"generator": toy.generator} | toy.state(), header)
        assert resumed_from(tmp_path)[0] == 0


def test_notes_survive(tmp_path):
    toy, asked = Toy(), []
    run = run_in(tmp_path, toy, lambda: asked.append(None) or len(asked) == 4)
    run.note("before", {"indices": [[1, 2], [3, 4]]})
    with pytest.raises(Stopped):  # noqa: PT012
        for step in run.loop("condense", STEPS, **toy.state()):
            toy.step(step, run)
            run.note("alpha", step / 2)
    later = Toy()
    run = run_in(tmp_path, later)
    assert run.notes == {}
    next(iter(run.loop("condense", STEPS, **later.state())))
    assert run.notes == {"before": {"indices": [[1, 2], [3, 4]]}, "alpha": 1.5}


def lines(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def test_the_log_holds_every_step_once_after_stops(tmp_path):
    for _ in range(STEPS):
        toy = Toy()
        try:
            work(run_in(tmp_path, toy, lambda: True), toy)
        except Stopped:
            continue
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, STEPS + 1))
    losses = [loss for _, loss in toy.history["list"]]
    assert [line["loss"] for line in lines(tmp_path)] == pytest.approx(losses, rel=1e-6)
    seconds = [line["seconds"] for line in lines(tmp_path)]
    assert seconds == sorted(seconds)


def test_half_written_and_later_lines_are_dropped(tmp_path):
    interrupt(tmp_path, after=3)
    log = tmp_path / "steps.jsonl"
    other = json.dumps({"phase": "features", "step": 50, "seconds": 1.0, "loss": 1.0})
    beyond = json.dumps({"phase": "condense", "step": 4, "seconds": 1.0, "loss": 9.0})
    junk = '[1]\n"text"\n{"step": 2}\n{"phase": "condense", "step": "x"}\n7\n\x00\n'
    log.write_text(log.read_text() + f"{other}\n{beyond}\n{junk}" + '{"phase": "condense", "step": 5, "lo')
    with log.open("ab") as file:
        file.write(b"\xff\xfe")
    toy = Toy()
    work(run_in(tmp_path, toy), toy)
    assert [(line["phase"], line["step"]) for line in lines(tmp_path)] == [
        ("condense", 1), ("condense", 2), ("condense", 3), ("features", 50), ("condense", 4), ("condense", 5),
        ("condense", 6),
    ]  # fmt: skip


def test_starting_anew_drops_the_old_log(tmp_path):
    interrupt(tmp_path).unlink()
    toy = Toy()
    work(run_in(tmp_path, toy), toy)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, STEPS + 1))


def test_long_phases_are_averaged_to_a_few_hundred_lines(tmp_path):
    steps = 3 * LOG_LINES + 1
    run = Run(tmp_path, "key")
    for step in run.loop("condense", steps):
        run.log(loss=torch.tensor(float(step)), other=1.0)
    found = lines(tmp_path)
    assert LOG_LINES // 2 < len(found) <= LOG_LINES + 1
    assert found[0] | {"seconds": 0} == {"phase": "condense", "step": 4, "seconds": 0, "loss": 1.5, "other": 1.0}
    assert found[-1]["step"] == steps


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 3, STEPS - 1])
def test_values_that_are_not_finite_end_the_run(tmp_path, value, at):
    run = Run(tmp_path, "key", 0.0)
    x = torch.zeros(1)
    with pytest.raises(NotFinite, match=r"loss is (nan|inf|-inf) at or shortly before step"):  # noqa: PT012
        for step in run.loop("condense", STEPS, x=x):
            x += 1
            run.log(loss=torch.tensor(value if step == at else 1.0))
    assert NotFinite.reason == "loss not finite"
    # No state was saved at or behind the bad step.
    header = checkpoint.read_header(tmp_path / "checkpoint" / "condense.safetensors")
    assert (header["done"] if header else 0) == at


def test_progress_is_told_of_every_step():
    told = []
    run = Run(progress=lambda *args: told.append(args[:3]))
    for _ in run.loop("condense", 3):
        run.log(loss=1.0)
    assert told == [("condense", done, 3) for done in range(4)]


def test_logging_reads_no_tensor_before_it_must(monkeypatch):
    """`log` in a long phase must not wait for the device."""
    reads = []
    item = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda self: reads.append(None) or item(self))
    run = Run()
    for _ in run.loop("condense", 10 * LOG_LINES):
        run.log(loss=torch.ones(()))
    assert len(reads) == LOG_LINES


def test_a_part_of_a_log_is_appended_once(tmp_path):
    part, whole = tmp_path / "part", tmp_path / "whole"
    part.mkdir(), whole.mkdir()
    append_log(part, whole)
    assert not (whole / LOG).exists()
    lines = [json.dumps({"phase": phase, "step": step}) for phase, step in (("a", 1), ("b", 1), ("b", 2))]
    (whole / LOG).write_text(lines[0] + "\n" + '{"phase": "a", "st')
    (part / LOG).write_text("\n".join(lines[1:]))
    for _ in range(2):
        append_log(part, whole)
    assert (whole / LOG).read_text().splitlines() == lines


def test_seconds_include_earlier_attempts(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("benchmark.condensation.run.time.perf_counter", lambda: clock[0])

    def attempt(stop):
        run = Run(tmp_path, "key", 1e9, should_stop=stop)
        for _ in run.loop("condense", 4, x=torch.zeros(1)):
            clock[0] += 10
        return run

    with pytest.raises(Stopped):
        attempt(lambda: clock[0] >= 20)
    clock[0] += 5000
    assert attempt(lambda: False).phases["condense"] == {"steps": 4, "seconds": 40.0}


def test_checkpoints_come_no_further_apart_than_asked(tmp_path, monkeypatch):
    clock, saved = [0.0], []
    monkeypatch.setattr("benchmark.condensation.run.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(checkpoint, "save_state", lambda path, state, header: saved.append(header["done"]))
    for _ in Run(tmp_path, "key", 60.0).loop("condense", 20):
        clock[0] += 25 / 6
    assert saved == [15, 20]


def test_slow_steps_are_saved_as_they_end(tmp_path, monkeypatch):
    clock, saved = [0.0], []
    monkeypatch.setattr("benchmark.condensation.run.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(checkpoint, "save_state", lambda path, state, header: saved.append(header["done"]))
    for step in Run(tmp_path, "key", 60.0).loop("condense", 9):
        clock[0] += 7 if step in (2, 5) else 1
    assert saved == [3, 6, 9]
