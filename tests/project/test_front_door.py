"""What `from benchmark import ...` gives: condensed sets without their data set, and the grid from Python."""

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

import benchmark
from benchmark import Grid, load_condensed
from benchmark.cli import main
from benchmark.cli.options import GridOptions, UsageError
from benchmark.containers.dataset import WholeSet
from benchmark.containers.multi_formation import MultiFormation
from benchmark.containers.pixels import Pixels
from benchmark.data.whitening import ZCA
from benchmark.engines.serial import StopSignal
from benchmark.store.cells import Cell
from benchmark.store.condensed_set import ArtifactError, save_artifact
from benchmark.store.folder import Store
from benchmark.system import files
from tests.toys import Drift

ROOT = Path(__file__).parents[2]


def origin(method="dm", ipc=1):
    cell = Cell(method, "digits", ipc, 3, "quick", "strict", "float32", 1, {})
    return {"key": cell.key, "cell": cell.config(), "condensation": {"seconds": 1.0}, "environment": {}}


def class_means(digits, space="normalised"):
    """One image per class, the mean of its class, stored in a space."""
    raw = torch.stack([digits.train.raw(rows).mean(0) for rows in digits.train.class_indices])[:, None]
    return Pixels.of(raw if space == "raw" else digits.train.normalise(raw.flatten(0, 1)).unflatten(0, (10, 1)), space)


@pytest.fixture
def saved(tmp_path, digits):
    """saved(container) -> the path of its file."""

    def save(container, path=tmp_path / "condensed.safetensors"):
        save_artifact(path, container, digits, origin())
        return path

    return save


def whitening_of(digits):
    """A whitening of the digits, by an eigen-decomposition in double precision."""
    raw = digits.train.raw().flatten(1).double()
    mean = raw.mean(0)
    values, vectors = torch.linalg.eigh((raw - mean).T @ (raw - mean) / (len(raw) - 1))
    transform, inverse = ((vectors * scale) @ vectors.T for scale in ((values + 0.1).rsqrt(), (values + 0.1).sqrt()))
    return ZCA(mean.float(), transform.float(), inverse.float())


# The names


def run_python(source, *arguments, **options):
    done = subprocess.run(
        [sys.executable, "-c", source, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_the_package_costs_nothing():
    source = (
        "import sys, time; start = time.perf_counter(); import benchmark; seconds = time.perf_counter() - start\n"
        "print(seconds, *sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'numpy', 'pandas', 'methods'}))"
    )
    seconds, *loaded = run_python(source)
    assert float(seconds) < 0.5
    assert loaded == []


def test_reading_a_set_loads_no_compiler_and_no_tables(saved, digits):
    source = (
        "import sys; from benchmark import load_condensed\n"
        "s = load_condensed(sys.argv[1]); s.raw, s.normalise(s.shown)\n"
        "print(len(s), *({'torch._dynamo', 'torch._inductor', 'pandas', 'matplotlib', 'sklearn', 'kornia', 'methods'}"
        " & set(sys.modules)))"
    )
    assert run_python(source, saved(class_means(digits))) == ["10"]


def test_every_public_name_is_listed_once_in_each_place():
    assert sorted(benchmark.__all__) == sorted([*benchmark._MODULES, "__version__"])
    assert set(benchmark.__all__) <= set(dir(benchmark))
    source = Path(benchmark.__file__).read_text()
    block = source.partition("if TYPE_CHECKING:\n")[2].partition("\n\n")[0]
    shown = dict(re.findall(r"from (\S+) import (\w+)", block))
    assert {name: module for module, name in shown.items()} == benchmark._MODULES


@pytest.mark.parametrize("name", sorted(benchmark._MODULES))
def test_a_public_name_is_what_its_module_defines(name):
    value = getattr(benchmark, name)
    assert value.__module__.startswith("benchmark.")
    assert value.__doc__


def test_what_is_not_public_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'load_condensd'"):
        _ = benchmark.load_condensd
    with pytest.raises(ImportError):
        exec("from benchmark import nothing_of_the_kind")


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "benchmark" / "py.typed").is_file()
    assert re.search(r"^benchmark =\n    py\.typed$", (ROOT / "setup.cfg").read_text(), re.M)


# Condensed sets


def trained(condensed, epochs=60):
    """A network of three layers trained on a set, by a loop that knows nothing of this package."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(condensed.images[0].numel(), 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for images, labels in DataLoader(condensed, batch_size=4, shuffle=True):
            loss = nn.functional.cross_entropy(network(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network


def accuracy(network, images, labels):
    with torch.no_grad():
        return (network(images).argmax(1) == labels).float().mean().item()


def test_a_plain_loop_trains_on_it_far_above_chance(saved, digits):
    condensed = load_condensed(saved(class_means(digits)))
    network = trained(condensed)
    assert accuracy(network, condensed.normalise(digits.test.raw()), digits.test.labels) > 0.6
    # Chance is 0.1; what makes the difference is the images and not the loop.
    condensed.labels = condensed.labels.roll(1)
    assert accuracy(trained(condensed), condensed.normalise(digits.test.raw()), digits.test.labels) < 0.2


def test_a_whitened_set_is_trained_and_tested_in_its_own_space(saved, digits):
    container, whitening = class_means(digits, "raw"), whitening_of(digits)
    container.whitening = whitening
    condensed = load_condensed(saved(container))
    real = digits.test.raw()
    assert torch.equal(condensed.images, whitening.whiten(container.pixels.detach()))
    assert torch.equal(condensed.normalise(real), whitening.whiten(real))
    for name in ("mean", "transform", "inverse"):
        assert torch.equal(getattr(condensed.zca, name), getattr(whitening, name))
    assert accuracy(trained(condensed), condensed.normalise(real), digits.test.labels) > 0.6


@pytest.mark.parametrize("space", ["raw", "normalised", "zca"])
def test_the_images_are_the_ones_that_the_benchmark_trains_on(saved, digits, space):
    raw, whitening = class_means(digits, "raw"), whitening_of(digits)
    if space == "zca":
        container = Pixels.of(whitening.whiten(raw.pixels.detach()).unflatten(0, (10, 1)), "zca")
        container.whitening = whitening
    else:
        container = raw if space == "raw" else class_means(digits)
    condensed = load_condensed(saved(container))
    split = digits.train.whitened(container.whitening)
    assert torch.equal(condensed.images, split.seen(container.pixels.detach(), space, container.whitening))
    torch.testing.assert_close(condensed.raw, raw.pixels.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(condensed.normalise(condensed.raw), condensed.images, rtol=1e-4, atol=1e-4)
    assert not condensed.images.requires_grad


def test_what_a_set_tells_of_itself(saved, digits):
    container = MultiFormation.tiled(torch.rand(10, 4, 1, 8, 8), 2)
    container.learned_lr = 0.02
    path = saved(container)
    condensed = load_condensed(path)
    assert len(condensed) == 40
    image, label = condensed[39]
    assert (tuple(image.shape), image.dtype, label, type(label)) == ((1, 8, 8), torch.float32, 9, int)
    assert torch.equal(condensed.labels, torch.arange(10).repeat_interleave(4))
    assert condensed.labels.dtype == torch.int64
    assert (condensed.mean.tolist(), condensed.std.tolist()) == (digits.train.mean.tolist(), digits.train.std.tolist())
    assert (condensed.zca, condensed.learned_lr, condensed.classes) == (None, 0.02, tuple("0123456789"))
    card = condensed.card
    facts = [card[name] for name in ("method", "dataset", "ipc", "seed", "schedule", "budget", "space", "floats")]
    assert facts == ["dm", "digits", 1, 3, "quick", "strict", "raw", 640]
    assert card["origin"]["cell"]["precision"] == "float32"
    assert repr(condensed) == "<CondensedDataset dm on digits, IPC 1: 40 images [1, 8, 8]>"
    with pytest.raises(IndexError):
        condensed[40]


def test_a_set_is_decoded_once(saved, digits, monkeypatch):
    path, calls, images = saved(class_means(digits)), [], Pixels.images
    monkeypatch.setattr(Pixels, "images", lambda self, indices=None: calls.append(1) or images(self, indices))
    condensed = load_condensed(path, dataset=digits)
    _ = condensed.raw, condensed.shown, condensed[0], list(DataLoader(condensed))
    assert calls == [1]


def test_pixels_are_clamped_for_showing_alone(saved, digits):
    container = class_means(digits, "raw")
    container.pixels.data[0, 0, 0, :2] = torch.tensor([-0.5, 1.5])
    condensed = load_condensed(saved(container))
    assert condensed.raw[0, 0, 0, :2].tolist() == [-0.5, 1.5]
    assert condensed.shown[0, 0, 0, :2].tolist() == [0, 1]
    assert (condensed.images.min() * condensed.std + condensed.mean).item() == pytest.approx(-0.5, abs=1e-5)


def test_real_images_in_every_form_are_seen_alike(saved, digits):
    condensed = load_condensed(saved(class_means(digits)))
    stored = digits.test.images[:3]
    seen = digits.test.gather(torch.arange(3))
    assert torch.equal(condensed.normalise(stored), seen)
    assert torch.equal(condensed.normalise(stored.float() / 255), seen)
    assert torch.equal(condensed.transform(stored[0]), seen[0])
    assert torch.equal(condensed.transform(Image.fromarray(stored[0, 0].numpy())), seen[0])
    assert torch.equal(pickle.loads(pickle.dumps(condensed.transform))(stored), seen)  # as a DataLoader's processes do
    with pytest.raises(ValueError, match=r"shape \[1, 9, 8\]; this condensed set has \[1, 8, 8\]"):
        condensed.transform(Image.fromarray(np.zeros((9, 8), np.uint8)))


def test_the_transform_works_in_torchvision(saved, digits, tmp_path):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose, Grayscale, ToTensor

    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(digits.test.images[0, 0].numpy()).save(tmp_path / "images" / name / "0.png")
    condensed = load_condensed(saved(class_means(digits)))
    for transform in (condensed.transform, Compose([Grayscale(), ToTensor(), condensed.transform])):
        image, _ = ImageFolder(tmp_path / "images", transform)[1]
        torch.testing.assert_close(image, digits.test.gather(torch.tensor([0]))[0])


def test_the_whole_set_needs_its_data(saved, digits):
    path = saved(WholeSet.of(digits.train))
    with pytest.raises(ArtifactError, match=r"refers to the 1,438 training images of digits.*dataset='digits'"):
        load_condensed(path)
    for dataset in ("digits", digits):
        whole = load_condensed(path, dataset=dataset)
        assert torch.equal(whole.images, digits.train.gather())
        assert torch.equal(whole.labels, digits.train.labels)
        torch.testing.assert_close(whole.raw, digits.train.raw(), rtol=0, atol=1e-6)


def test_a_set_is_held_against_the_data_set_that_is_named(saved, digits, tmp_path):
    import dataclasses

    other = dataclasses.replace(digits, spec=dataclasses.replace(digits.spec, classes=11))
    path = saved(class_means(digits))
    assert len(load_condensed(path, dataset="digits")) == 10
    with pytest.raises(ArtifactError, match="10 classes"):
        load_condensed(path, dataset=other)
    with pytest.raises(ValueError, match="Did you mean digits"):
        load_condensed(path, dataset="digitss")


def test_paths_that_hold_no_set(saved, digits, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load_condensed(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no condensed\.safetensors"):
        load_condensed(tmp_path)
    (tmp_path / "set.zip").write_text("x")
    with pytest.raises(ArtifactError, match="unknown kind of file"):
        load_condensed(tmp_path / "set.zip")
    path = saved(class_means(digits))
    assert len(load_condensed(str(tmp_path))) == 10  # the folder of a cell
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ArtifactError, match="not a readable condensed set"):
        load_condensed(path)


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [("mean", [0.1, 0.2], "one number for each of 1 channels"), ("std", [0.0], "std that is not positive"),
     ("std", "x", "not a readable"), ("image_shape", [1, 8, 9], "does not decode"), ("format", 9, "format 9"),
     ("classes", ["a"], "10 classes and names 1"), ("learned_lr", 1e999, "not a readable"), ("config", {}, "config")],
)  # fmt: skip
def test_a_card_that_does_not_fit_is_refused(saved, digits, part, value, said):
    import json

    path = saved(class_means(digits))
    tensors, texts = files.read_tensors(path)
    card = json.loads(texts["card"]) | {part: value}
    save_file(tensors, path, {"card": json.dumps(card)})
    with pytest.raises(ArtifactError, match=said):
        load_condensed(path)


# The grid


@pytest.fixture
def short(toys, monkeypatch, tmp_path):
    """Toy methods, evaluations of two steps, this process alone, no probe; the folder that grids write to."""
    monkeypatch.setattr("benchmark.training.recipes.MINIMUM_STEPS", 2)
    monkeypatch.setattr("benchmark.engines.processes.SMALL_IMAGE", 0)
    monkeypatch.setattr("benchmark.grid.hours.probe_speed", lambda runtime: 1e10)
    return tmp_path / "results"


def test_the_options_are_those_of_the_command_line(short):
    import inspect

    given = inspect.signature(Grid).parameters
    assert {name: p.default for name, p in given.items()} == dict(vars(GridOptions()))
    assert Grid(datasets="digits", methods="dm").options == GridOptions(methods=("dm",), datasets=("digits",))
    grid = Grid(
        methods=("dm", "drift"), ipc=range(1, 3), schedule=0.05, set={"dm.lr_img": 2, "drift.mode": "drift"}, nets=None,
        results_dir=short, device=torch.device("cpu"), precision="float32", budget="native", protocol="both", seeds=2,
    )  # fmt: skip
    assert grid.options == GridOptions(
        methods=("dm", "drift"), ipc=(1, 2), schedule="0.05", set=("dm.lr_img=2", "drift.mode=drift"),
        results_dir=short, device="cpu", precision="float32", budget="native", protocol="both", seeds=2,
    )  # fmt: skip
    assert Grid(methods="dm", set=["dm.lr_img=2"]).options.set == ("dm.lr_img=2",)
    assert repr(Grid(methods=["dm"], ipc=10)) == "Grid(methods=('dm',), ipc=(10,))"


@pytest.mark.parametrize(
    ("options", "said"),
    [({"method": "dm"}, "no option 'method'; did you mean methods"), ({"plan": True}, "no option 'plan'"),
     ({"methods": "dmm"}, "unknown method 'dmm'; did you mean"),
     ({"methods": []}, "--methods needs at least one value"),
     ({"methods": ["--seeds=3"]}, "--methods needs at least one value"),
     ({"ipc": 0}, "--ipc needs whole numbers of at least 1, not 0"), ({"ipc": 1.5}, "ipc = 1.5 does not fit"),
     ({"ipc": True}, "ipc = True does not fit"), ({"seeds": "two"}, "seeds = 'two' does not fit"),
     ({"protocol": "natve"}, "choose from unified, native, both"),
     ({"precision": "float16"}, "choose from float32, bf16, reference"),
     ({"datasets": "cifar-10"}, "Did you mean cifar10"), ({"set": {"dm.lr_imgg": 1}}, "did you mean lr_img"),
     ({"set": {"dm.lr_img": True}}, "a finite number"),
     ({"methods": "dm", "ray_address": "auto"}, "needs --engine ray"),
     ({"methods": {"dm": 1}}, "methods = {'dm': 1} does not fit")],
)  # fmt: skip
def test_wrong_options_are_told_at_once_with_the_command_lines_words(options, said, tmp_path):
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        Grid(results_dir=tmp_path / "results", **options)
    assert isinstance(caught.value, ValueError)
    assert not (tmp_path / "results").exists()


def test_a_device_that_is_not_there(short):
    with pytest.raises(UsageError, match="--device gpu is not available here"):
        Grid(methods="drift", ipc=1, device="gpu").plan()


def test_a_grid_is_planned_run_and_read(short):
    grid = Grid(methods=["drift", "large"], ipc=[1, 2], nets=2, seeds=2, results_dir=short, set={"drift.rate": 0.2})
    plan = grid.plan()
    assert not short.exists()
    assert plan["state"].tolist() == ["to do", "blocked"] * 4
    assert plan["variant"].tolist() == ["rate=0.2", ""] * 4
    assert plan[["ipc", "seed"]].to_numpy().tolist() == [[i, s] for s in (0, 1) for i in (1, 2) for _ in range(2)]
    assert plan["floats"].tolist() == [640, 1280, 1280, 2560] * 2
    assert (plan["seconds"].isna() == (plan["state"] == "blocked")).all()
    assert plan["reason"][1].startswith("the container stores 1,280 floats")
    assert grid.results().empty

    table = grid.run()
    assert table.equals(grid.results())
    drift, large = (table[table["method"].str.startswith(name)] for name in ("drift", "large"))
    assert (drift["status"].tolist(), large["status"].tolist()) == (["done"] * 2, ["failed"] * 2)
    assert drift["accuracy"].between(0, 100).all()
    assert (drift["seeds"].tolist(), drift["nets"].tolist(), drift["reason"].tolist()) == ([2, 2], [2, 2], ["", ""])
    assert large["reason"].iloc[0].startswith("budget too small: the container stores")
    assert table["accuracy"].dtype == float

    assert grid.plan()["state"].tolist() == ["done", "blocked"] * 4
    condensed = load_condensed(grid.plan()["directory"][0])
    assert (len(condensed), condensed.card["method"], condensed.card["seed"]) == (10, "drift", 0)
    before = Drift.condensed
    grid.run()
    assert Drift.condensed == before
    page = grid.report()
    assert page == short / "index.html"
    assert page.is_file()


def test_the_command_line_and_a_grid_share_their_cells(short, capsys):
    arguments = ["--methods", "drift", "--ipc", "1", "--nets", "1", "--results-dir", str(short)]
    assert main(arguments) == 0
    grid = Grid(methods="drift", ipc=1, nets=1, results_dir=short)
    assert grid.plan()["state"].tolist() == ["done"]
    stored = (short / "tables" / "results.csv").read_text().splitlines()
    found = grid.results().drop(columns="reason").astype(object)
    assert stored == found.where(found.notna(), None).to_csv(index=False).splitlines()
    Grid(methods="drift", ipc=[1, 2], nets=1, results_dir=short).run()
    assert len(grid.results()) == 1  # another grid's cells are not this one's
    assert main([*arguments, "--networks", "convnet", "alexnet"]) == 0
    assert grid.results()["network"].tolist() == ["convnet"]


def test_a_failing_cell_shows_and_does_not_raise(short):
    options = {"methods": ["failing", "drift"], "ipc": 1, "nets": 1, "results_dir": short}
    table = Grid(**options, set={"failing.mode": "raise"}).run().set_index("method")
    assert table["status"].to_dict() == {"failing [mode=raise]": "failed", "drift": "done"}
    assert "the loss went round the corner" in table["reason"]["failing [mode=raise]"]


def test_a_stop_is_handed_on_when_all_is_saved(short, monkeypatch):
    ends, log = [], Drift.condense

    def interrupted(self, task, run):
        signal.raise_signal(signal.SIGINT)
        return log(self, task, run)

    monkeypatch.setattr(Drift, "condense", interrupted)
    grid = Grid(methods="drift", ipc=1, nets=1, results_dir=short)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            ends.append(grid.run())
        assert ends == []
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert grid.results()["status"].tolist() == ["missing"]
    monkeypatch.setattr(Drift, "condense", log)
    assert grid.run()["status"].tolist() == ["done"]


def test_a_grid_runs_outside_the_main_thread_and_leaves_the_process_as_it_was(short):
    tables, before = [], (signal.getsignal(signal.SIGINT), torch.get_num_threads())
    grid = Grid(methods="drift", ipc=1, nets=1, results_dir=short)
    thread = threading.Thread(target=lambda: tables.append(grid.run()))
    thread.start()
    thread.join()
    assert [table["status"].tolist() for table in tables] == [["done"]]
    assert (signal.getsignal(signal.SIGINT), torch.get_num_threads()) == before


def test_signals_are_heard_in_the_main_thread_alone():
    heard = []

    def look():
        with StopSignal().installed():
            heard.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    look()
    assert heard[0] is before
    assert heard[1] is not before


def test_a_process_of_a_grid_does_not_run_the_users_script_again(tmp_path):
    """As `spawn` has it, which ends in an error where the script has no guard, and needs a file where it has one."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from benchmark.engines.processes import Process, Settings\n"
        "print('once', flush=True)\n"
        "process = Process(Settings(Path('results'), Path(), None, 'cpu', 'float32', 1))\n"
        "process.pipe.close()\n"  # by which an idle process ends
        "process._process.join()\n"
        "print('exit', process._process.exitcode)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("once\nexit 0\n", "", 0)


# The page


def test_the_page_of_the_documentation_runs(saved, digits, tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.S)
    assert len(blocks) >= 6
    monkeypatch.setattr("benchmark.training.recipes.MINIMUM_STEPS", 2)
    monkeypatch.setattr("benchmark.engines.processes.SMALL_IMAGE", 0)
    monkeypatch.chdir(tmp_path)
    saved(class_means(digits))
    names = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert names["accuracy"] > 0.5
    assert names["table"]["status"].tolist() == ["done", "done"]
    assert [len(condensed) for condensed in names["sets"]] == [10, 10]
    assert len(Store(tmp_path / "results").records()) == 2
    out = capsys.readouterr().out
    assert "% of 359 real test images" in out
    assert "unknown method 'dmm'" in out
