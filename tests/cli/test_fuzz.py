"""Random and damaged files to --evaluate, --config and --report: a clear error or none, and nothing outside touched."""

import contextlib
import io
import json
import shutil
import urllib.request
import warnings
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from benchmark import cli
from benchmark.containers.addressed import Addressed
from benchmark.containers.multi_formation import MultiFormation
from benchmark.containers.pixels import Pixels
from benchmark.engines.job import JobRunner
from benchmark.store.condensed_set import save_artifact
from benchmark.store.folder import Store
from benchmark.system import files
from benchmark.system.files import sealed
from benchmark.system.runtime import Runtime
from tests import fuzz
from tests.fuzz import damaged, examples, mutated, st, to_json, values, watched
from tests.toys import Failing, toy_job

pytestmark = pytest.mark.slow  # hundreds of calls

CPU = Runtime(torch.device("cpu"))


@pytest.fixture(autouse=True)
def quick(monkeypatch, toys, digits, tmp_path):
    """Trainings of one step, digits that are read once, no network, no drawing; a folder that is nobody's."""
    monkeypatch.setattr("benchmark.training.recipes.MINIMUM_STEPS", 1)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr("benchmark.grid.hours.probe_speed", lambda runtime: 1e10)
    monkeypatch.setattr("benchmark.data.digits.load", lambda: digits)
    monkeypatch.setattr("benchmark.report.plots.draw", lambda *_: [])
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: (_ for _ in ()).throw(URLError("network is down")))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(tmp_path):
    """call(*arguments) -> (exit status, what was printed); nothing but results/, data/ and cache/ may be changed."""
    import benchmark.report  # noqa: F401  (what is imported late may write its own caches)

    for name in ("results", "data", "cache"):
        (tmp_path / name).mkdir()

    def run(*arguments: str) -> tuple[int, str]:
        said = io.StringIO()
        own = ("--results-dir", str(tmp_path / "results"), "--data-dir", str(tmp_path / "data"))
        with (
            contextlib.redirect_stdout(said), contextlib.redirect_stderr(said),
            watched(tmp_path / "results", tmp_path / "data", tmp_path / "cache"),
        ):  # fmt: skip
            status = cli.main([*own, *arguments])
        text = said.getvalue()
        assert status in (0, 1, 2), text
        assert "Traceback" not in text
        assert status != 2 or text.strip(), "an error without a message"
        return status, text

    return run


# --evaluate


def evaluate(call, path: Path) -> None:
    status, text = call("--evaluate", str(path), "--nets", "1", "--protocol", "both")
    assert status == 0 or path.name in text


@pytest.fixture
def own_files(digits, tmp_path) -> list[bytes]:
    """Condensed sets of several containers, as this program stores them."""
    containers = [
        Pixels.of(torch.rand(10, 2, 1, 8, 8)),
        MultiFormation.of(torch.rand(10, 1, 1, 8, 8), 2),
        Addressed(10, 3, 4, [1, 8, 8]).initialise_(torch.Generator().manual_seed(0)),
    ]
    cell, found = {"method": "dm", "ipc": 2}, []
    for container in containers:
        container.learned_lr = 0.01
        save_artifact(tmp_path / "own", container, digits, {"key": "k", "cell": cell})
        found.append((tmp_path / "own").read_bytes())
    return found


@st.composite
def own_mutants(draw, originals):
    """Damaged bytes, or a file that is sound in itself and says strange things."""
    content = draw(st.sampled_from(originals))
    if draw(st.booleans()):
        return draw(damaged(content) | st.binary(max_size=64))
    tensors, texts = parts(content)
    card = draw(mutated(json.loads(texts["card"])))
    for name in list(tensors):
        if draw(st.integers(0, 4)) == 0:
            tensors[name] = draw(strange_tensors(tensors[name]))
    return save(tensors, files.sealed_texts(tensors, {"card": json.dumps(card)}))


def parts(content: bytes):
    path = Path("parts.safetensors")
    path.write_bytes(content)
    return files.read_tensors(path)


def strange_tensors(tensor):
    return st.sampled_from(
        [tensor * torch.nan, tensor.double(), tensor.to(torch.int64), tensor.bool(), tensor.bfloat16(), tensor[:0],
         tensor.flatten(), tensor[None], torch.zeros(()), tensor * 1e38 * 10, tensor * 1e38,
         tensor[:1], torch.cat([tensor, tensor])]
    )  # fmt: skip


@examples
def test_our_own_condensed_sets(call, own_files, tmp_path, examples):
    def check(content):
        path = tmp_path / "set.safetensors"
        path.write_bytes(content)
        evaluate(call, path)

    for content in own_files:
        check(content)
    fuzz.fuzz(examples, check, own_mutants(own_files))


IMAGES, LABELS = torch.rand(20, 1, 8, 8), torch.arange(10).repeat_interleave(2)


def odd_tensors():
    return st.sampled_from(
        [IMAGES, LABELS, IMAGES.double(), IMAGES.half(), IMAGES.to_sparse(), IMAGES.to(torch.complex64), IMAGES[:0],
         IMAGES[:1].expand(10**9, 1, 8, 8), LABELS.float(), LABELS.bool(), LABELS + 7, LABELS - 1, LABELS[:0],
         LABELS[:3], torch.zeros(()), torch.quantize_per_tensor(IMAGES, 0.1, 0, torch.quint8), IMAGES * torch.inf,
         IMAGES[0], torch.nn.Parameter(IMAGES), IMAGES.to(torch.uint8), LABELS.to(torch.uint8)]
    )  # fmt: skip


def torch_bytes(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@st.composite
def authors_mutants(draw):
    good = {"data": [[IMAGES, LABELS]], "accs_all_exps": {"ConvNet": [0.5]}}
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return draw(damaged(torch_bytes(good)) | st.binary(max_size=64))
    part = odd_tensors() | st.sampled_from([0, "x", None, [], {}])
    pairs = draw(st.lists(st.lists(part, max_size=3) | st.just([IMAGES, LABELS]) | part, max_size=3))
    strange = st.sampled_from([pairs, {"data": 3}, {}, IMAGES, None, "x"])
    return torch_bytes(good | {"data": pairs} if kind == 1 else draw(strange))


@examples
def test_sets_of_the_authors(call, tmp_path, examples):
    def check(content):
        path = tmp_path / "set.pt"
        path.write_bytes(content)
        evaluate(call, path)

    check(torch_bytes({"data": [[IMAGES, LABELS]]}))
    fuzz.fuzz(examples, check, authors_mutants())


# --config

OPTIONS = (
    "methods", "datasets", "ipc", "seeds", "nets", "schedule", "protocol", "workers", "budget", "networks", "set",
    "data_dir", "results-dir", "device", "precision", "plan", "report", "list", "evaluate", "version", "config",
)  # fmt: skip
SENSIBLE = (
    "dm", "random", "digits", "mnist", "folder:nowhere", "convnet", "vgg11", "quick", "0.05", "both", "native", "cpu",
    "dm.lr_img=2", "dm.objective=dc", "reference", 1, 2, 50, ["dm", "hmn"], [1, 10], True, False,
)  # fmt: skip


def toml_literal(value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | int):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml_literal, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {toml_literal(v)}" for k, v in value.items()) + "}"
    return json.dumps("" if value is None else value)


def toml_files():
    names = st.sampled_from(OPTIONS) | st.text(max_size=8)
    pairs = st.dictionaries(names, st.sampled_from(SENSIBLE) | values, max_size=4)
    text = pairs.map(lambda d: "\n".join(f"{json.dumps(k)} = {toml_literal(v)}" for k, v in d.items()).encode())
    good = b'methods = ["dm", "random"]\nipc = [1, 5]\nseeds = 2\nset = ["dm.lr_img=2"]\nplan = true\n'
    return text | damaged(good) | st.binary(max_size=64)


@examples
def test_toml_files(call, tmp_path, examples):
    def check(content):
        path = tmp_path / "grid.toml"
        path.write_bytes(content)
        status, text = call("--config", str(path), "--plan")
        assert status != 2 or "bench.py: " in text

    fuzz.fuzz(examples, check, toml_files())


# Results folders


@pytest.fixture
def filled(digits, tmp_path, call) -> Path:
    """A results folder with a done cell, a failed one and one that was only asked for."""
    store = Store(tmp_path / "results")
    JobRunner(store, CPU).run(toy_job(), digits)
    with pytest.raises(RuntimeError):
        JobRunner(store, CPU).run(toy_job(Failing, mode="raise"), digits)
    store.announce(toy_job(ipc=5))
    shutil.copytree(store.root, tmp_path / "sound")
    return store.root


@st.composite
def folder_mutants(draw, sound: Path):
    """(file of the folder, its new content)."""
    files = sorted(path for path in sound.rglob("*") if path.suffix in (".json", ".jsonl", ".png"))
    path = draw(st.sampled_from(files))
    content = path.read_bytes()
    if path.suffix != ".json" or draw(st.integers(0, 3)) == 0:
        return path.relative_to(sound), draw(damaged(content) | st.binary(max_size=64))
    value = draw(mutated(json.loads(content)))
    value.pop("checksum", None)
    with contextlib.suppress(ValueError):
        value = draw(st.sampled_from([value, sealed(value)]))
    return path.relative_to(sound), to_json(value)


@examples
def test_results_folders(call, filled, tmp_path, examples):
    sound = tmp_path / "sound"

    def check(mutant):
        path, content = mutant
        (filled / path).write_bytes(content)
        try:
            for arguments in (("--report",), ("--methods", "drift", "--ipc", "1", "5", "--nets", "1", "--plan")):
                status, text = call(*arguments)
                assert status == 0, text
        finally:
            shutil.copy(sound / path, filled / path)
        assert "<script" not in (filled / "index.html").read_text()
        assert all("\\input{x}" not in table.read_text() for table in (filled / "tables").glob("*.tex"))

    fuzz.fuzz(examples, check, folder_mutants(sound))


@examples
def test_cells_are_redone_from_whatever_is_there(call, filled, tmp_path, examples):
    sound, grid = tmp_path / "sound", ("--methods", "drift", "--ipc", "1", "--nets", "1", "--workers", "1")

    def check(mutant):
        path, content = mutant
        (filled / path).write_bytes(content)
        try:
            status, text = call(*grid)
            assert status == 0, text
            assert "1 done, 0 to do" in call(*grid, "--plan")[1]
        finally:
            shutil.rmtree(filled)
            shutil.copytree(sound, filled)

    own = st.tuples(st.just(own_path(sound, "condensed.safetensors")), condensed_mutants(sound))
    fuzz.fuzz(examples // 10, check, folder_mutants(sound) | own)


def own_path(sound: Path, name: str) -> Path:
    return next(path for path in sound.rglob(name)).relative_to(sound)


def condensed_mutants(sound: Path):
    return own_mutants([(sound / own_path(sound, "condensed.safetensors")).read_bytes()])


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


@examples
def test_names_of_files_and_folders(call, filled, tmp_path, examples):
    """A set or a cell of any name is scored and reported below the results folder."""
    good, done = torch_bytes({"data": [[IMAGES, LABELS]]}), next((tmp_path / "sound" / "runs").glob("drift*ipc1*"))

    def check(name):
        path, cell = tmp_path / f"{name}.pt", filled / "runs" / f"x{name}"
        path.write_bytes(good)
        shutil.copytree(done, cell)
        config = json.loads((cell / "config.json").read_text())
        config["cell"]["dataset"] = f"folder:/[/]/{name}"
        (cell / "config.json").write_text(json.dumps(config))
        try:
            assert call("--evaluate", str(path), "--nets", "1")[0] == 0
            assert call("--report")[0] == 0
        finally:
            path.unlink()
            shutil.rmtree(cell)

    for name in ("[bold]", "...", "a\\..\\b", "$\\frac$", "\udce9", "<script>", "\n"):
        check(name)
    fuzz.fuzz(examples // 10, check, names)


def test_the_watch_sees(tmp_path):
    with pytest.raises(AssertionError, match="outside"), watched(tmp_path / "results"):
        (tmp_path / "outside").write_text("x")
    with pytest.raises(AssertionError, match="outside"), watched(tmp_path / "results"):
        (tmp_path / "outside").rename(tmp_path / "outside too")
    with watched(tmp_path):
        (tmp_path / "inside").write_text("x")
    with safe_open(_saved(tmp_path), "pt") as file:
        assert list(file.keys()) == ["x"]


def _saved(folder: Path) -> Path:
    (folder / "x.safetensors").write_bytes(save({"x": torch.zeros(1)}))
    return folder / "x.safetensors"
