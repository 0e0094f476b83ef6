"""States to a file and back: every kind of value, and files that hold something else."""

import json

import pytest
import torch
from safetensors.torch import save_file

from benchmark.system import checkpoint
from benchmark.system.checkpoint import CheckpointError, load_state, read_header, save_state
from benchmark.system.runtime import Runtime
from benchmark.training.recipes import Recipe
from benchmark.training.row_adam import RowAdam
from benchmark.training.trainer import Ensemble, Training, TrainingSet


class Nested:
    """Anything with a state_dict of JSON values and tensors."""

    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


NESTED = {
    "count": 3, "rate": 0.1, "name": "x", "nothing": None, "yes": True,
    "list": [1, [2.5, None], {"deep": torch.arange(3)}],
    0: {"int key": torch.ones(2, 3)}, "0": {"str key": torch.zeros(1)},
    "a": {"b": torch.tensor(1.0)}, "a/b": torch.tensor(2.0),
    "types": [torch.ones(2, dtype=t) for t in (torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)],
    "empty": torch.empty(0, 4), "strided": torch.arange(6.0).view(2, 3).t(),
    "infinite": float("inf"),
}  # fmt: skip


def equal(one, two):
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return list(one) == list(two) and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(equal(a, b) for a, b in zip(one, two, strict=True))
    return type(one) is type(two) and one == two


def test_nested_values_keep_their_types_and_keys(tmp_path):
    save_state(tmp_path / "s", {"nested": Nested(NESTED)}, {"of": "x"})
    restored = Nested({})
    load_state(tmp_path / "s", {"nested": restored})
    assert equal(NESTED, restored.state)
    assert read_header(tmp_path / "s") == {"of": "x"}


def test_tensors_that_share_memory(tmp_path):
    base = torch.arange(4.0)
    save_state(tmp_path / "s", {"nested": Nested({"a": base, "b": base, "c": base[1:]})}, {})
    restored = Nested({})
    load_state(tmp_path / "s", {"nested": restored})
    assert equal(restored.state, {"a": base, "b": base, "c": base[1:]})


def test_tensors_are_filled_in_place(tmp_path):
    leaf, plain = torch.ones(3, requires_grad=True), torch.arange(4)
    save_state(tmp_path / "s", {"leaf": leaf, "plain": plain}, {})
    with torch.no_grad():
        leaf.zero_()
    plain.zero_()
    places = leaf.data_ptr(), plain.data_ptr()
    load_state(tmp_path / "s", {"leaf": leaf, "plain": plain})
    assert torch.equal(leaf, torch.ones(3))
    assert torch.equal(plain, torch.arange(4))
    assert (leaf.data_ptr(), plain.data_ptr()) == places
    assert leaf.requires_grad


def test_generators_go_on_with_the_same_numbers(tmp_path, generator):
    torch.rand(7, generator=generator)
    torch.randn(3, generator=generator)  # an odd number: the second half of a Box-Muller pair is kept in the state
    save_state(tmp_path / "s", {"generator": generator}, {})
    expected = torch.randn(5, generator=generator)
    other = torch.Generator().manual_seed(99)
    load_state(tmp_path / "s", {"generator": other})
    assert torch.equal(torch.randn(5, generator=other), expected)


OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW([{"params": p[:1], "lr": 0.1}, {"params": p[1:]}], 0.01),
    "row adam": lambda p: RowAdam(p, 0.01, rows=1),
}


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=list(OPTIMISERS))
@pytest.mark.parametrize("at", [0, 1, 4])
def test_optimisers_go_on_with_the_same_bits(tmp_path, make, at):
    def begin():
        parameters = [torch.arange(6.0).view(3, 2).requires_grad_(), torch.ones(3, 1).requires_grad_()]
        return parameters, make(parameters)

    def move(parameters, optimiser, steps):
        for step in steps:
            optimiser.zero_grad()
            sum(((p * (step + 1.3)).sin() * p).sum() for p in parameters).backward()
            optimiser.step()
            optimiser.param_groups[0]["lr"] *= 0.9

    parameters, optimiser = begin()
    move(parameters, optimiser, range(at))
    state = {"first": parameters[0], "second": parameters[1], "optimiser": optimiser}
    save_state(tmp_path / "s", state, {})
    move(parameters, optimiser, range(at, 6))

    others, optimiser2 = begin()
    move(others, optimiser2, range(2))  # the new process may have done anything to them
    load_state(tmp_path / "s", {"first": others[0], "second": others[1], "optimiser": optimiser2})
    move(others, optimiser2, range(at, 6))
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))


def test_modules_and_trainings(tmp_path):
    from benchmark import networks

    def begin(seed):
        ensemble = Ensemble(networks.build("convnet", (1, 8, 8), 3, width=8), [seed, 5], Runtime(torch.device("cpu")))
        data = TrainingSet.of(torch.arange(7 * 64.0).view(7, 1, 8, 8).sin(), torch.arange(7) % 3)
        return Training(ensemble, data, Recipe(epochs=3, decay="halfway", batch=3, cutmix=0.5), "color_crop")

    training = begin(1)
    for step in range(5):
        training.step(step)
    save_state(tmp_path / "s", {"training": training}, {})
    losses = [training.step(step) for step in range(5, 12)]
    other = begin(2)
    other.step(0)
    load_state(tmp_path / "s", {"training": other})
    assert all(torch.equal(other.step(step), loss) for step, loss in zip(range(5, 12), losses, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(
        training.ensemble.parameters.values(), other.ensemble.parameters.values(), strict=True))  # fmt: skip


def test_an_absent_file_is_no_warning(tmp_path, recwarn):
    assert read_header(tmp_path / "none") is None
    assert not recwarn.list


def _damages(path):
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    yield "empty", b""
    yield "half", whole[: len(whole) // 2]
    yield "last byte gone", whole[:-1]
    yield "header cut", whole[: 8 + length // 2]
    yield "more behind", whole + b"\0"
    yield "text", b"not safetensors at all"
    yield "huge header", (2**40).to_bytes(8, "little") + whole[8:]
    yield "no JSON", whole[:8] + b"\xff" * length + whole[8 + length :]


def test_damaged_files_are_named_and_count_as_none(tmp_path):
    path = tmp_path / "s"
    save_state(path, {"x": torch.arange(100.0)}, {"of": "x"})
    for name, content in list(_damages(path)):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=f"{path} is damaged"):
            assert read_header(path) is None, name


@pytest.mark.parametrize("metadata", [None, {}, {"header": "["}, {"header": "[1]"}, {"header": "3"}, {"tree": "{}"}])
def test_other_safetensors_files_count_as_none(tmp_path, metadata):
    save_file({"x": torch.ones(1)}, tmp_path / "s", metadata)
    with pytest.warns(UserWarning, match="is damaged"):
        assert read_header(tmp_path / "s") is None


def _foreign(tree):
    return {"header": json.dumps({"key": "k"}), "tree": tree}


@pytest.mark.parametrize(
    "tree",
    ["", "{", "{}", "[]", '{"items": []}', '{"items": [["x", {"tensor": "9"}]]}', '{"items": [["x", {"value": 3}]]}',
     '{"items": [["x", {"tensor": "0"}]]}'],
)  # fmt: skip
def test_a_state_is_restored_whole_or_not_at_all(tmp_path, tree):
    """The last tree has x, of the right shape, and nothing for the network and the generator."""
    save_file({"0": torch.full((2,), 7.0)}, tmp_path / "s", _foreign(tree))
    x, network, generator = torch.ones(2), torch.nn.Linear(2, 2), torch.Generator().manual_seed(3)
    weight, state = network.weight.detach().clone(), generator.get_state()
    with pytest.raises(CheckpointError, match=str(tmp_path / "s")):
        load_state(tmp_path / "s", {"x": x, "network": network, "generator": generator})
    assert torch.equal(x, torch.ones(2))
    assert torch.equal(network.weight, weight)
    assert torch.equal(generator.get_state(), state)


def test_a_state_of_another_shape_is_refused_and_nothing_moved(tmp_path):
    save_state(tmp_path / "s", {"x": torch.zeros(2), "network": torch.nn.Linear(3, 3)}, {})
    x, network = torch.ones(2), torch.nn.Linear(2, 2)
    sgd = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    network(torch.ones(1, 2)).sum().backward()
    sgd.step()
    weight = network.weight.detach().clone()
    with pytest.raises(CheckpointError):
        load_state(tmp_path / "s", {"x": x, "network": network, "sgd": sgd})
    assert torch.equal(x, torch.ones(2))
    assert torch.equal(network.weight, weight)
    assert sgd.state[network.weight]["momentum_buffer"].norm() > 0


def test_saving_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "s"
    save_state(path, {"x": torch.zeros(2)}, {"number": 1})
    before = path.read_bytes()
    monkeypatch.setattr(
        "benchmark.system.files.os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match="full"):
        save_state(path, {"x": torch.ones(2)}, {"number": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_values_that_json_cannot_hold_fail_at_once(tmp_path):
    with pytest.raises(TypeError):
        checkpoint.save_state(tmp_path / "s", {"nested": Nested({"x": object()})}, {})
    assert not list(tmp_path.iterdir())
