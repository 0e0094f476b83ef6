"""The command line in process: wrong calls, TOML files, plans that come true, failures among cells that go on."""

import json
import re
import shutil
import subprocess
import sys
import urllib.request
import warnings
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from benchmark import __version__, cli, data, networks
from benchmark.cli import command
from benchmark.cli.options import parse
from benchmark.grid import registry
from benchmark.store.folder import Store
from tests.toys import Drift

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """Evaluations of two steps, no network, this process alone (others would not know the toys), and the process's way
    of showing warnings given back."""
    monkeypatch.setattr("benchmark.training.recipes.MINIMUM_STEPS", 2)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr("benchmark.engines.processes.SMALL_IMAGE", 0)
    monkeypatch.setattr("benchmark.grid.hours.probe_speed", lambda runtime: 1e10)
    monkeypatch.setenv("CONDENSE_DATA", str(tmp_path / "no-data"))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: (_ for _ in ()).throw(URLError("network is down")))


@pytest.fixture
def bench(toys, tmp_path, capsys):
    """bench(*arguments) -> (exit status, stdout, stderr), with a results folder of its own."""

    def call(*arguments, folder="results"):
        where = () if "--results-dir" in arguments else ("--results-dir", str(tmp_path / folder))
        status = cli.main([*where, *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def planned(monkeypatch):
    """The entries of every plan that is printed."""
    seen = []
    show = command.print_plan
    monkeypatch.setattr(command, "print_plan", lambda entries, *rest: seen.append(entries) or show(entries, *rest))
    return seen


WRONG = [
    ("--evaluate set.pt --microbatch 8", "--evaluate has no real batches to split"),
    ("--microbatch 0", "--microbatch needs whole numbers of at least 1, not 0"),
    ("--microbatch 8 --methods random mtt", "--microbatch splits the real batches .* none of --methods has"),
    ("--workers 0", "--workers needs whole numbers of at least 1, not 0"),
    ("--evaluate set.pt --workers 2", "--evaluate scores in this process; leave out --workers"),
    ("--engine spark", "local.*ray"),
    ("--ray-address auto", "--ray-address needs --engine ray"),
    ("--engine ray --device cuda:1", "--device cuda:1: with --engine ray it is auto, cpu or cuda"),
    ("--engine ray --methods dsaa", "unknown method 'dsaa'; did you mean dsa"),
    ("--evaluate set.pt --engine ray", "--evaluate scores in this process; leave out --workers and --engine"),
    ("--methods dsaa", "unknown method 'dsaa'; did you mean dsa"),
    ("--methods xyzzy", "known: .*dsa.*herding"),
    ("--methods", "--methods needs at least one value"),
    ("--datasets cifar-10", "Unknown data set 'cifar-10'. Did you mean cifar10"),
    ("--datasets folder:/nowhere/at/all", "no such folder.*PATH/train/<class>"),
    ("--datasets folder:", "folder:PATH"),
    ("--datasets", "--datasets needs at least one value"),
    ("--methods random --datasets mnist", "MNIST not found.*no-data.*--data-dir"),
    ("--methods random --datasets tiny-imagenet", "Tiny-ImageNet not found.*no-data"),
    ("--networks convnt", "unknown network 'convnt'; did you mean convnet"),
    ("--networks", "--networks needs at least one value"),
    ("--ipc 0", "--ipc needs whole numbers of at least 1, not 0"),
    ("--ipc 1 -5", "--ipc needs whole numbers of at least 1, not -5"),
    ("--ipc ten", "--ipc"),
    ("--ipc 1.5", "--ipc"),
    ("--ipc", "--ipc needs at least one value"),
    ("--seeds 0", "--seeds needs whole numbers of at least 1"),
    ("--seeds x", "--seeds"),
    ("--seeds 1 2", "2"),
    ("--nets 0", "--nets needs whole numbers of at least 1"),
    ("--nets -3", "--nets needs whole numbers of at least 1, not -3"),
    ("--schedule fast", "--schedule fast: use quick, paper or a fraction"),
    ("--schedule 0", "use quick, paper or a fraction"),
    ("--schedule 1.5", "use quick, paper or a fraction"),
    ("--schedule nan", "use quick, paper or a fraction"),
    ("--protocol natve", "unified.*native.*both"),
    ("--budget loose", "strict.*native"),
    ("--set dm", "METHOD.FIELD=VALUE"),
    ("--set dm.lr_img", "METHOD.FIELD=VALUE"),
    ("--set =1", "METHOD.FIELD=VALUE"),
    ("--set dm.lr_imgg=1", "dm has no field 'lr_imgg'; did you mean lr_img"),
    ("--set dmm.lr_img=1", "unknown method 'dmm'; did you mean.*dm"),
    ("--set dm.lr_img=abc", "a finite number, 0 or more"),
    ("--set dm.lr_img=", "a finite number, 0 or more"),
    ("--set dm.lr_img=-1", "a finite number, 0 or more"),
    ("--set dm.lr_img=NaN", "a finite number, 0 or more"),
    ("--set dm.lr_img=Infinity", "a finite number, 0 or more"),
    ("--set dm.lr_img=true", "a finite number, 0 or more"),
    ("--set dm.iterations=1.5", "a whole number, 0 or more"),
    ("--set dm.iterations=true", "a whole number, 0 or more"),
    ("--set dm.init=nose", "choose from noise, real"),
    ("--methods hmn --set hmn.instance_channels=0", "hmn .instance_channels=0.*choose other values for --set"),
    ("--methods hmn --set hmn.beta_stride=0", "--set hmn.beta_stride=0: needs 1 or more"),
    ("--methods hmn --set hmn.aum_points=0", "--set hmn.aum_points=0: needs 1 or more"),
    ("--methods hmn-random --set hmn-random.batch_net=0", "--set hmn-random.batch_net=0: needs 1 or more"),
    ("--methods idc --set idc.factor=0", "--set idc.factor=0: needs 1 or more"),
    ("--methods mtt --set mtt.experts=0", "--set mtt.experts=0: needs 1 or more"),
    ("--methods dc --set dc.objective=haba haba.experts=0", "--set haba.experts=0: needs 1 or more"),
    ("--methods haba --set haba.hallucinators=0", "haba .hallucinators=0.*choose other values for --set"),
    ("--methods linba --set linba.downsample=0", "linba .downsample=0.*choose other values for --set"),
    ("--set dm.objective=dcc", "no objective 'dcc'; did you mean dc"),
    ("--set dm.objective=random", "no objective 'random'"),
    ("--set random.objective=dm", "random has no container to move"),
    ("--methods containers --set haba.objective=dm", "--methods gives haba an objective already"),
    ("--methods random --set dm.lr_img=2", "--set names dm, which --methods does not run"),
    ("--methods dc --set dc.objective=dm dm.objective=dc", "--set names dm.objective, which --methods does not run"),
    ("--set dm.lr_img=2 --set dm.iterations=3", "--set is given twice"),
    ("--methods random --methods dm", "--methods is given twice"),
    ("--data-dir a --data_dir b", "--data-dir is given twice"),
    ("--device gpu", "--device gpu is not available"),
    ("--device cuda:99", "--device cuda:99 is not available"),
    ("--device meta", "--device meta is not available"),
    ("--precision float16", "float32"),
    ("--config", "--config needs the path"),
    ("--config nowhere.toml", "nowhere.toml.*No such file"),
    ("--results-dir", "--results-dir"),
    ("--method random", "--methods"),
    ("--iterations 3", "--iterations"),
    ("random", "random"),
    ("--evaluate nowhere.pt", "nowhere.pt"),
    ("--evaluate nowhere.pt --datasets digits mnist", "one data set"),
    ("--plan maybe", "maybe"),
    ("--ipc 1000000", "--ipc needs whole numbers up to 100,000"),
    ("--seeds 1000000000", "--seeds needs whole numbers up to 100,000"),
    ("--nets 99999999", "--nets needs whole numbers up to 100,000"),
    ("--workers 1000001", "--workers needs whole numbers up to 100,000"),
    ("--schedule -0.1", "--schedule"),
    ("--schedule 1e999", "use quick, paper or a fraction"),
    ("--set dm.iterations=1e999", "a whole number, 0 or more"),
    ("--set dm..lr_img=1", "dm has no field '.lr_img'"),
    ("--set dm.__class__=1", "dm has no field '__class__'"),
    ("--set dm.lr_img=[1]", "a finite number, 0 or more"),
    ("--methods ../dm", "unknown method '../dm'"),
    ("--networks ../convnet", "unknown network '../convnet'"),
    ("--datasets folder:tests/nowhere", "no such folder"),
    ("--device cuda:x", "--device cuda:x is not available"),
    ("--device cpu:5:5", "--device cpu:5:5 is not available"),
    ("--evaluate", "--evaluate"),
    ("--evaluate bench.py", "unknown kind of file"),
    ("--evaluate tests", "expected 10 sub-folders"),
    ("--config tests", "--config tests: .*Is a directory"),
    ("--config --methods", "--config --methods: .*No such file"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[arguments for arguments, _ in WRONG])
def test_wrong_calls_exit_2_with_one_message(bench, tmp_path, arguments, said):
    status, out, err = bench(*arguments.split())
    assert status == 2
    assert re.search(said, " ".join(err.replace("│", " ").split())), err
    assert "Traceback" not in out + err
    results = tmp_path / "results"
    assert not results.exists(), "a wrong call left something behind"


def test_the_table_of_wrong_calls_is_long_enough():
    assert len({arguments for arguments, _ in WRONG}) >= 60


def test_wrong_calls_of_our_own_are_one_line(bench):
    for arguments in ("--methods dsaa", "--set dm.lr_img=abc", "--config nowhere.toml", "--ipc 0"):
        _, out, err = bench(*arguments.split())
        assert out == ""
        assert len(err.splitlines()) == 1
        assert err.startswith("bench.py: ")


def test_ray_is_asked_for_where_it_is_not_installed(bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("ray_cluster", "ray_driver"):
        monkeypatch.delitem(sys.modules, f"benchmark.engines.{name}", raising=False)
        monkeypatch.delattr(f"benchmark.engines.{name}", raising=False)
    status, _, err = bench("--engine", "ray")
    assert status == 2
    assert "--engine ray needs Ray" in err
    assert "pip install 'condensation-bench[ray]'" in err


def test_a_results_folder_that_cannot_be_written(bench, tmp_path):
    (tmp_path / "file").write_text("x")
    status, _, err = bench("--methods", "random", "--ipc", 1, "--results-dir", tmp_path / "file")
    assert status == 2
    assert str(tmp_path / "file") in err
    assert "Traceback" not in err


def test_images_too_small_for_the_network(bench, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "tiny" / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "tiny" / name / f"{number}.png")
    status, _, err = bench("--methods", "random", "--datasets", f"folder:{tmp_path / 'tiny'}", "--ipc", 1)
    assert status == 2
    assert "too small" in err


def test_a_broken_method_file_is_named(bench, tmp_path, monkeypatch):
    import methods

    registry.all_methods.cache_clear()
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "brokenmethod.py").write_text("import nosuchmodule\n")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path / "extra")])
    try:
        status, out, err = bench("--list")
    finally:
        registry.all_methods.cache_clear()
    assert (status, out) == (2, "")
    assert "methods.brokenmethod" in err
    assert "nosuchmodule" in err


# What is printed without running anything


def test_list_names_everything(bench):
    status, out, err = bench("--list")
    assert (status, err) == (0, "")
    words = set(out.split())
    assert {*registry.all_methods(), *data.names(), *networks.NAMES, "folder:PATH"} <= words


def test_version_and_help(bench):
    assert bench("--version")[:2] == (0, f"condensation-bench {__version__}\n")
    status, out, _ = bench("--help")
    assert status == 0
    assert all(option in out for option in ("--methods", "--config", "--evaluate", "--set"))


def test_report_on_an_empty_folder(bench, tmp_path):
    status, out, err = bench("--report")
    assert status == 0
    assert "Traceback" not in out + err
    assert (tmp_path / "results" / "index.html").is_file()


# Plans


def cells_of(entries):
    return {entry.job.cell.key for entry in entries}


def test_the_plan_is_what_runs(bench, planned, tmp_path):
    arguments = ("--methods", "random", "drift", "whole", "--ipc", 2, 1, 2, "--seeds", 2, "--nets", 1)
    status, out, _ = bench(*arguments, "--plan")
    assert status == 0
    assert Store(tmp_path / "results").records() == []
    assert not (tmp_path / "results").exists(), "--plan wrote something"
    assert "9 cells: 0 done, 9 to do, 0 blocked" in out

    status, out, _ = bench(*arguments)
    assert status == 0
    records = Store(tmp_path / "results").records()
    assert {record.directory.name.rpartition("-")[2] for record in records} == cells_of(planned[0])
    assert {(r.config["method"], r.config["ipc"], r.config["seed"]) for r in records} == {
        *((method, ipc, seed) for method in ("random", "drift") for ipc in (1, 2) for seed in (0, 1)), ("whole", 0, 0),
    }  # fmt: skip
    assert all(record.status == "done" for record in records)
    for entry in planned[0]:
        stored = Store(tmp_path / "results").result(entry.job.cell)
        if entry.job.cell.ipc:
            assert stored.condensation.floats == entry.floats
    assert (tmp_path / "results" / "tables" / "results.csv").is_file()

    # A second time there is nothing to do, and nothing is done.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results" / "runs").rglob("*") if path.is_file()}
    status, out, _ = bench(*arguments)
    assert status == 0
    assert "9 cells: 9 done, 0 to do, 0 blocked" in out
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "results" / "runs").rglob("*") if path.is_file()}
    assert before == after


def test_asking_for_more_does_only_what_is_missing(bench, planned, tmp_path):
    arguments = ("--methods", "drift", "--ipc", 1, "--nets")
    assert bench(*arguments, 1)[0] == 0
    assert Drift.condensed == 1
    (path,) = (tmp_path / "results" / "runs").rglob("condensed.safetensors")
    before = path.stat().st_mtime_ns, path.read_bytes()
    for more in (("2",), ("2", "--networks", "convnet", "alexnet"), ("2", "--protocol", "both")):
        status, out, _ = bench(*arguments, *more)
        assert status == 0
        assert "0 done, 1 to do" in out
        assert bench(*arguments, *more, "--plan")[1].count("1 done, 0 to do") == 1
    assert Drift.condensed == 1
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    result = json.loads((path.parent / "result.json").read_text())
    found = {(e["protocol"], e["network"]): len(e["accuracies"]) for e in result["evaluations"]}
    assert found == {("unified", "convnet"): 2, ("unified", "alexnet"): 2, ("native", "convnet"): 2}
    # Toys have no protocol of their own: native is the unified recipe, so its networks were trained once.
    unified, native = (
        next(e for e in result["evaluations"] if (e["protocol"], e["network"]) == (protocol, "convnet"))
        for protocol in ("unified", "native")
    )
    assert unified["accuracies"] == native["accuracies"]


def test_one_folder_by_two_names_is_one_data_set(bench, planned, tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.full((8, 8), 20 * number, np.uint8)).save(tmp_path / "pets" / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    bench("--methods", "random", "--datasets", "folder:pets", f"folder:{tmp_path}/pets/", "--ipc", 1, "--plan")
    (entries,) = planned
    assert len(entries) == len(cells_of(entries)) == 3  # paper schedule: three seeds


def test_blocked_cells_are_refused_recorded_and_named(bench, planned, tmp_path):
    arguments = ("--methods", "large", "drift", "--ipc", 1, "--nets", 1)
    status, out, _ = bench(*arguments, "--plan")
    assert status == 0
    assert "2 cells: 0 done, 1 to do, 1 blocked" in out
    assert "1,280" in out
    status, out, _ = bench(*arguments)
    assert status == 1
    assert "failed: large digits IPC 1 seed 0: the container stores 1,280 floats" in out
    found = {record.config["method"]: record for record in Store(tmp_path / "results").records()}
    assert found["drift"].status == "done"
    assert (found["large"].status, found["large"].failure.error) == ("failed", "budget too small")
    assert not (found["large"].directory / "condensed.safetensors").exists()
    # The authors' size is allowed when asked for, and named.
    status, out, _ = bench(*arguments, "--budget", "native", folder="native")
    assert status == 0
    found = {record.config["method"]: record for record in Store(tmp_path / "native").records()}
    assert found["large"].result.condensation.budget_multiple == 2.0


def test_a_cell_is_blocked_whose_container_cannot_even_be_sized(bench):
    status, out, _ = bench("--plan", "--methods", "hmn", "--ipc", 1, "--set", "hmn.instance_channels=60")
    assert status == 0
    assert "1 cells: 0 done, 0 to do, 1 blocked" in out


@pytest.mark.parametrize(
    ("mode", "word"), [("raise", "error"), ("nan", "loss not finite"), ("allocate", "out of memory")]
)
def test_a_failed_cell_never_stops_the_others(bench, tmp_path, mode, word):
    arguments = ("--methods", "failing", "drift", "--ipc", 1, 2, "--nets", 1, "--set", f"failing.mode={mode}")
    status, out, err = bench(*arguments)
    assert status == 1
    assert "Traceback" not in out + err
    assert out.count(f"failed: {word}") == 2
    found = Store(tmp_path / "results").records()
    assert [r.status for r in found if r.config["method"] == "drift"] == ["done"] * 2
    failed = [r for r in found if r.config["method"] == "failing"]
    assert [r.failure.error for r in failed] == [word] * 2
    text = (tmp_path / "results" / "tables" / "results.csv").read_text()
    assert text.count(",failed,") == 2
    # Failures are tried again; the done cells are not.
    Drift.condensed = 0
    status, out, _ = bench(*arguments)
    assert status == 1
    assert "4 cells: 2 done, 2 to do, 0 blocked" in out
    assert Drift.condensed == 0
    # Mended, they count.
    assert bench("--methods", "failing", "--ipc", 1, 2, "--nets", 1, "--set", "failing.mode=drift")[0] == 0


def test_a_damaged_result_is_named_and_redone(bench, tmp_path):
    arguments = ("--methods", "drift", "--ipc", 1, "--nets", 1)
    bench(*arguments)
    (path,) = (tmp_path / "results" / "runs").rglob("result.json")
    good = json.loads(path.read_text())
    for content in ('{"format": 1', "[]", json.dumps(good | {"key": "0" * 16}), json.dumps(good | {"evaluations": 3})):
        path.write_text(content)
        status, out, err = bench(*arguments)
        assert status == 0
        assert "1 to do" in out
        assert str(path) in "".join(err.split("\n"))
        assert json.loads(path.read_text())["evaluations"][0]["accuracies"] == good["evaluations"][0]["accuracies"]
    assert Drift.condensed == 1


def test_report_alone_makes_the_tables_anew(bench, tmp_path):
    bench("--methods", "drift", "--ipc", 1, "--nets", 2)
    table = tmp_path / "results" / "tables" / "results.csv"
    content = table.read_text()
    shutil.rmtree(tmp_path / "results" / "tables")
    Drift.condensed = 0
    assert bench("--report")[0] == 0
    assert table.read_text() == content
    assert Drift.condensed == 0


# The objective axis and overrides


def test_objectives_are_an_axis(bench, planned):
    arguments = ("--plan", "--methods", "dm", "dsa", "--ipc", 1)
    bench(*arguments)
    bench(*arguments, "--set", "dm.objective=dc")
    bench(*arguments, "--set", "dm.objective=dc", "dc.iterations=7", "dm.init=noise")
    plain, moved, set_too = ({e.job.cell.method: e.job.cell for e in entries} for entries in planned)
    assert plain["dsa"].key == moved["dsa"].key == set_too["dsa"].key
    assert len({plain["dm"].key, moved["dm"].key, set_too["dm"].key}) == 3
    assert moved["dm"].objective == "dc"
    assert (set_too["dm"].objective_hyper["iterations"], set_too["dm"].hyper["init"]) == (7, "noise")
    assert set_too["dm"].variant == "dc.iterations=7 init=noise objective=dc"


def test_an_objective_whose_owner_has_another_objective(bench, planned):
    status, _, _ = bench("--plan", "--methods", "dm", "dsa", "--ipc", 1, "--set", "dsa.objective=dm", "dm.objective=dc")
    assert status == 0
    cells = {e.job.cell.method: e.job.cell for e in planned[0]}
    assert (cells["dsa"].objective, cells["dm"].objective) == ("dm", "dc")
    assert "objective" not in cells["dsa"].objective_hyper


def test_overrides_take_the_fields_type(bench, planned):
    bench("--plan", "--methods", "dm", "--ipc", 1, "--set", "dm.lr_img=2", "dm.iterations=5", "dm.init=noise")
    hyper = planned[0][0].job.cell.hyper
    assert (hyper["lr_img"], type(hyper["lr_img"]), hyper["iterations"], hyper["init"]) == (2.0, float, 5, "noise")


def test_the_plan_names_what_was_set(bench):
    _, out, _ = bench("--plan", "--methods", "dm", "--ipc", 1, "--set", "dm.lr_img=2")
    assert "dm [lr_img=2.0]" in out


# TOML files


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "grid.toml"
        path.write_text(text)
        return path

    return write


def options(*arguments):
    return parse([str(argument) for argument in arguments])


def test_a_file_gives_every_kind_of_option(toml):
    path = toml(
        'methods = ["dm", "random"]\nipc = [1, 5]\nseeds = 2\nnets = 4\nschedule = 0.05\nprotocol = "both"\n'
        'set = ["dm.lr_img=2"]\nresults-dir = "there"\ndata_dir = "/data"\nplan = true\nreport = false\n'
    )
    found = options("--config", path)
    assert (found.methods, found.ipc, found.seeds, found.nets) == (("dm", "random"), (1, 5), 2, 4)
    assert (found.schedule, found.protocol, found.set) == ("0.05", "both", ("dm.lr_img=2",))
    assert (found.results_dir, found.data_dir) == (Path("there"), Path("/data"))
    assert (found.plan, found.report, found.datasets) == (True, False, ("digits",))
    assert options(f"--config={path}") == found


def test_the_command_line_goes_before_the_file(toml):
    path = toml('methods = ["dm", "random"]\nseeds = 2\nplan = true\n')
    found = options("--methods", "dc", "--config", path, "--seeds", 5, "--plan")
    assert (found.methods, found.seeds, found.plan) == (("dc",), 5, True)


def test_a_single_value_may_stand_without_brackets(toml):
    found = options("--config", toml('methods = "dm"\nipc = 10\n'))
    assert (found.methods, found.ipc) == (("dm",), (10,))


@pytest.mark.parametrize(
    ("text", "said"),
    [("method = ['dm']", "no option 'method'; did you mean methods"), ("xyzzy = 1", "no option 'xyzzy'; known: "),
     ("config = 'a.toml'", "no option 'config'"), ("seeds = 'two'", "seeds = 'two' does not fit"),
     ("seeds = 1.5", "seeds = 1.5 does not fit"), ("seeds = [1, 2]", "seeds"), ("ipc = ['x']", "ipc"),
     ("plan = 'yes'", "plan = 'yes' does not fit"), ("plan = 1", "plan = 1 does not fit"), ("plan = []", "plan"),
     ("seeds = true", "seeds = True does not fit"), ("methods = true", "methods = True does not fit"),
     ("protocol = 'all'", "protocol"), ("methods = [", "Invalid"), ("[methods]\nname = 'dm'", "methods"),
     ("ipc = [0]", "--ipc needs whole numbers of at least 1"), ("methods = ['dmm']", "did you mean"),
     ("methods = []", "--methods needs at least one value")],
)  # fmt: skip
def test_wrong_files_exit_2_with_one_message(bench, toml, text, said):
    status, out, err = bench("--config", toml(text), "--plan")
    assert status == 2
    assert said in " ".join(err.split())
    assert len(err.splitlines()) == 1
    assert out == ""


def test_a_file_that_is_no_text(bench, tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    status, _, err = bench("--config", tmp_path / "x.toml")
    assert status == 2
    assert "x.toml" in err


# As a program


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [(["--methods", "dsaa"], 2, "did you mean dsa"), (["--set", "dm.lr_img=x"], 2, "finite number"),
     (["--list"], 0, "Methods")],
)  # fmt: skip
def test_the_program(arguments, status, said, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench.py"), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
