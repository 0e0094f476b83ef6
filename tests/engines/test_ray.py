"""A grid on a Ray cluster of several nodes on this machine: the same bits as here, whatever dies."""

import itertools
import os
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark import cli
from benchmark.engines.serial import StopSignal
from benchmark.grid import registry
from benchmark.grid.memory import condensing_bytes
from benchmark.store.folder import Store
from benchmark.testing import short_job
from methods.dm import DM
from methods.mtt import MTT
from methods.random import Random
from tests.engines.spread import Meddling, jobs_of, once, same_as_alone
from tests.short import short_settings

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install '.[ray]')")
cluster_utils = pytest.importorskip("ray.cluster_utils")

from benchmark.engines import ray_cluster, ray_driver  # noqa: E402

pytestmark = pytest.mark.slow  # clusters are started

NODE = {"node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": 80 * 2**20}


def add_node(whole, cores):
    """Ray gives a node's helpers 15 seconds to start, which a busy machine may not manage at once."""
    for _ in range(4):
        try:
            return whole.add_node(**NODE, num_cpus=cores)
        except Exception as error:
            failed = error
    raise failed


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """A cluster of a head without cores, where the driver is, and two nodes with one core each."""
    with pytest.MonkeyPatch.context() as patch:
        # Nodes that listen on the loopback device alone are reached by no other address of this machine.
        patch.setattr("ray._private.services.get_node_ip_address", lambda *_: "127.0.0.1")
        patch.setenv("CONDENSE_CACHE", str(tmp_path_factory.mktemp("nodes") / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_agent_register_timeout_ms", "100000")
        patch.setenv("RAY_health_check_failure_threshold", "100")  # a busy machine is not dead
        whole = cluster_utils.Cluster()
        whole.cache = Path(os.environ["CONDENSE_CACHE"])
        try:
            add_node(whole, 0)
            whole.workers = [add_node(whole, 1), add_node(whole, 1)]
            yield whole
        finally:
            whole.shutdown()


@pytest.fixture
def go(machines, digits, tmp_path):
    """go(jobs, ...) -> (outcome, what was printed)."""

    def run(jobs, meddle=lambda *_: None, stop=None, wanted=None):
        display = Meddling(meddle, len(jobs))
        with display, ray_cluster.connected(machines.address, "cpu", "float32", [digits.spec], wanted) as found:
            store = Store(tmp_path / "ray")
            outcome = ray_driver.run_jobs(jobs, found, {"digits": digits}, store, display, stop)
        assert not list((tmp_path / "ray" / "locks").glob("*.probe"))
        return outcome, display.printed

    return run


def process_of(label):
    """The process id of the task of a cell."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(f"ray::{label}".encode()):
                return int(path.parent.name)
        except OSError:
            continue
    raise AssertionError(f"no process is at {label}")


def kill(label):
    os.kill(process_of(label), signal.SIGKILL)


def test_the_same_bits_on_two_nodes(go, digits, tmp_path):
    busy, together = set(), []

    def meddle(label, phase, done):
        busy.add(label)
        together.append(len(busy))

    jobs = jobs_of(digits, DM, DM, Random, iterations=60)
    outcome, printed = go(jobs, meddle)
    assert (outcome.done, outcome.failed, outcome.stopped) == (3, [], "")
    assert "[3/3] " in printed
    assert max(together) >= 2, "each node has one core, so two cells at once are on two nodes"
    same_as_alone(jobs, digits, Store(tmp_path / "ray"))
    assert go(jobs)[0].done == 3, "what is done is not done again"


@pytest.mark.long
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])
def test_evaluations_are_tasks_of_their_own(go, digits, tmp_path, request, shared):
    if not shared:
        request.getfixturevalue("apart")
    (job,) = jobs_of(digits, Random)
    own = replace(job.evaluations[0], recipe=replace(job.evaluations[0].recipe, steps=400))
    kinds = itertools.product(("unified", "native"), ("convnet", "alexnet"))
    wanted = tuple(replace(own, protocol=protocol, network=network) for protocol, network in kinds)
    job, told = replace(job, evaluations=wanted), []
    outcome, _ = go([job], lambda label, phase, done: told.append(phase))
    assert (outcome.done, outcome.failed) == (1, [])
    changes = sum(first != second for first, second in itertools.pairwise(told))
    assert {"evaluate unified-convnet 0-2", "evaluate unified-alexnet 0-2"} <= set(told)
    assert changes > len(set(told)), "two evaluations at once tell in turns"
    assert not any("native" in phase for phase in told), "one training serves both protocols"
    same_as_alone([job], digits, Store(tmp_path / "ray"))


@pytest.mark.long
def test_experts_are_made_once_by_a_task_of_their_own(go, digits, tmp_path):
    jobs, told = [short_job(MTT, digits, ipc, **short_settings(MTT)) for ipc in (1, 2, 3)], {}
    outcome, _ = go(jobs, lambda label, phase, done: told.setdefault(label, set()).add(phase.split()[0]))
    assert (outcome.done, outcome.failed) == (3, [])
    assert sum("experts" in phases for phases in told.values()) == 1
    same_as_alone(jobs, digits, Store(tmp_path / "ray"))


@pytest.mark.long
def test_a_killed_process_and_a_killed_node_lose_nothing(go, machines, digits, tmp_path):
    jobs = jobs_of(digits, DM, DM, iterations=60)

    def end_a_node(label):
        machines.remove_node(machines.workers.pop(), allow_graceful=False)

    deaths = [kill, end_a_node]
    try:
        outcome, printed = go(jobs, once("condense", lambda label: deaths.pop(0)(label), times=2))
    finally:
        machines.workers += [add_node(machines, 1) for _ in range(2 - len(machines.workers))]
    assert (outcome.done, outcome.failed, deaths) == (2, [], [])
    assert printed.count("; given to another one") >= 2
    same_as_alone(jobs, digits, Store(tmp_path / "ray"))


@pytest.mark.long
def test_a_cell_whose_process_dies_twice_fails_and_the_rest_goes_on(go, digits, tmp_path):
    jobs = jobs_of(digits, DM, Random, iterations=400)
    outcome, printed = go(jobs, once("condense", kill, times=2))
    assert outcome.done == 1
    assert [(job, reason.partition(":")[0]) for job, reason in outcome.failed] == [(jobs[0], "process died")]
    assert "failed: process died" in printed
    status = {record.config["method"]: record.status for record in Store(tmp_path / "ray").records()}
    assert status == {"dm": "failed", "random": "done"}


@pytest.mark.long
def test_a_stop_reaches_the_nodes_and_the_same_call_goes_on(go, digits, tmp_path):
    jobs, stop = jobs_of(digits, DM, DM, DM, iterations=300), StopSignal()

    def meddle(label, phase, done):
        if done:
            stop.name = "SIGTERM"

    outcome, _ = go(jobs, meddle, stop)
    assert "condense stopped after step" in outcome.stopped
    assert outcome.failed == []
    assert list((tmp_path / "ray").glob("runs/*/checkpoint/condense.safetensors"))
    assert go(jobs)[0].done == 3
    same_as_alone(jobs, digits, Store(tmp_path / "ray"))


@contextmanager
def not_shared(store):
    yield Path("/nowhere/at/all.probe")


@pytest.fixture
def apart(monkeypatch):
    """The nodes do not see the results folder; they are told of one where nothing can be written."""
    monkeypatch.setattr(ray_driver, "probe", not_shared)
    settings = ray_driver.Settings
    monkeypatch.setattr(ray_driver, "Settings", lambda results, *rest: settings(Path("/proc/nowhere"), *rest))


@pytest.mark.long
def test_without_a_shared_folder_results_come_back(go, apart, machines, digits, tmp_path):
    jobs = jobs_of(digits, DM, DM, Random, iterations=200)
    outcome, printed = go(jobs, once("condense", kill))
    assert (outcome.done, outcome.failed) == (3, [])
    assert "its process died (" in printed
    same_as_alone(jobs, digits, Store(tmp_path / "ray"))


@pytest.mark.long
def test_without_a_shared_folder_a_stop_brings_the_checkpoints_back(go, apart, machines, digits, tmp_path):
    before = set(machines.cache.glob("cluster/*"))
    jobs, stop = jobs_of(digits, DM, DM, iterations=300), StopSignal()

    def meddle(label, phase, done):
        if done:
            stop.name = "SIGINT"

    assert "stopped after step" in go(jobs, meddle, stop)[0].stopped
    saved = list((tmp_path / "ray").glob("runs/*/checkpoint/condense.safetensors"))
    assert saved
    first = []
    outcome, _ = go(jobs, lambda label, phase, done: first.append(done) if phase == "condense" else None)
    assert outcome.done == 2
    assert first[0] > 0, "it went on from the checkpoint"
    same_as_alone(jobs, digits, Store(tmp_path / "ray"))
    assert set(machines.cache.glob("cluster/*")) == before, "a node kept files"


@pytest.mark.long
def test_a_failure_is_told_and_comes_back(go, apart, digits, tmp_path):
    large = short_job(Random, digits, 10_000)
    outcome, _ = go([large, *jobs_of(digits, Random)])
    assert outcome.done == 1
    assert outcome.failed[0][1].startswith("too few images: ")
    failures = [record.failure for record in Store(tmp_path / "ray").records() if record.failure]
    assert [failure["error"] for failure in failures] == ["too few images"]


@pytest.mark.long
def test_the_command_line(machines, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmark.training.recipes.MINIMUM_STEPS", 2)
    monkeypatch.setattr("warnings.showwarning", None)
    results = tmp_path / "results"
    arguments = ["--methods", "random", "--ipc", "1", "2", "--nets", "1", "--results-dir", str(results)]
    arguments += ["--engine", "ray", "--ray-address", machines.address]
    assert cli.main([*arguments, "--plan"]) == 0
    assert "Plan on a Ray cluster, nodes: 3; cores of a cell: 1" in capsys.readouterr().out
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "2 cells: 0 done, 2 to do" in printed
    assert "report: " in printed
    assert [record.status for record in Store(results).records()] == ["done", "done"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port", "nowhere"])
def test_a_cluster_that_is_not_there_is_said_at_once(address, tmp_path, capsys):
    arguments = ["--engine", "ray", "--ray-address", address, "--results-dir", str(tmp_path / "results")]
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"bench.py: --ray-address {address}: ")
    assert "docs/cluster.md" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_no_more_cells_at_once_than_asked_for():
    found = ray_cluster.Cluster("cpu", "float32", nodes=2, cores=1, slots=8, limit=3)
    assert found.at_once == 3
    assert ray_cluster.Cluster("cpu", "float32", nodes=2, cores=1, slots=8, limit=None).at_once == 8


def test_what_cells_take_of_a_cluster(digits):
    large = [ray_cluster.replace(digits.spec, height=32, width=32)]
    small = [digits.spec]
    head, node, gpu = {"memory": 1.0}, {"CPU": 8.0}, {"CPU": 16.0, "GPU": 4.0}

    def taken(nodes, device="auto", specs=large, wanted=None):
        found = ray_cluster.survey(nodes, device, "float32", specs, wanted)
        return found.device, found.cores, found.slots

    assert taken([head, node, node], specs=small) == ("cpu", 1, 16)
    assert taken([head, node, node]) == ("cpu", 8, 2), "a whole node each"
    assert taken([head, node, node], wanted=8) == ("cpu", 2, 8)
    assert taken([head, node, node], wanted=100) == ("cpu", 1, 16)
    assert taken([node, gpu]) == ("cuda", 1, 4)
    assert taken([node, gpu], "cpu") == ("cpu", 8, 3)
    with pytest.raises(ray_cluster.ClusterError, match="no node of the Ray cluster offers a GPU"):
        taken([node], "cuda")
    with pytest.raises(ray_cluster.ClusterError, match="offers a processor core"):
        taken([head])


def test_a_cell_asks_for_its_share_of_a_gpu(digits):
    job = short_job(Random, digits)
    with_gpu = ray_cluster.Cluster("cuda", "float32", nodes=1, cores=1, slots=1, limit=None, gpu_bytes=80 * 2**30)
    cost = registry.build(job.cell).cost(digits.spec, job.cell.budget_on(digits.spec))
    needed = condensing_bytes(job, digits.spec, cost)
    asked = with_gpu.resources(needed)
    assert asked["num_cpus"] == 1
    assert 0 < asked["num_gpus"] < 0.1
    unknown = ray_cluster.replace(with_gpu, gpu_bytes=0)
    assert unknown.resources(needed)["num_gpus"] == 1.0
    assert ray_cluster.replace(with_gpu, device="cpu").resources(needed) == {"num_cpus": 1}
