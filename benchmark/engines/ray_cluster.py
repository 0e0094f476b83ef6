"""A Ray cluster: connecting to it, what its nodes offer, and what a cell takes of that."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import ray
import torch
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmark.data import DatasetSpec
from benchmark.engines.processes import is_small
from benchmark.grid.hours import probe_speed
from benchmark.grid.memory import share
from benchmark.system.errors import first_line
from benchmark.system.runtime import Precision, set_up

KNOCK_SECONDS = 10
ANSWER_SECONDS = 30
"""How long a busy cluster may take to tell about itself before the plan goes without."""


class ClusterError(ValueError):
    """A cluster that is not there, or that lacks what is asked for; the message says what would do."""


@dataclass(frozen=True)
class Cluster:
    """The resources that cells take of a cluster to which this process is connected."""

    device: str
    """`cpu` or `cuda`."""
    precision: Precision
    nodes: int
    cores: int
    """CPU cores of one cell."""
    slots: int
    """Cells that run at once where each has its cores and, where GPUs are used, a GPU of its own."""
    limit: int | None
    """How many cells may run at once; None if the user did not say."""
    gpu_bytes: int = 0
    """Memory of the smallest GPU; 0 if nothing is known of it."""

    def describe(self) -> str:
        part = " and a GPU or a part of one" if self.device == "cuda" else ""
        return f"a Ray cluster, nodes: {self.nodes}; cores of a cell: {self.cores}{part}"

    @property
    def at_once(self) -> int:
        return max(1, min(self.slots, self.limit or self.slots))

    def resources(self, needed: int) -> dict[str, float]:
        """Return what a task asks Ray for. needed: the bytes that it takes of a GPU, if it runs on one."""
        if self.device == "cpu":
            return {"num_cpus": self.cores}
        return {"num_cpus": self.cores, "num_gpus": share(needed, self.gpu_bytes)}

    def speed(self) -> float | None:
        """Return the FLOP per second of one cell by itself (see `probe_speed`); None if no node is free to tell."""
        task = speed_there.options(num_cpus=self.cores, num_gpus=int(self.device == "cuda"))
        try:
            return ray.get(task.remote(self.device, self.precision, self.cores), timeout=ANSWER_SECONDS)
        except (GetTimeoutError, RayError):
            return None


@contextmanager
def connected(
    address: str, device: str, precision: Precision, specs: Sequence[DatasetSpec], wanted: int | None
) -> Iterator[Cluster]:
    """Connect to the cluster at `address` (`auto`: the one this machine is part of; `local`: one for this run alone).

    device: `cpu`, `cuda`, or `auto`, which is `cuda` if any node has a GPU. Raises ClusterError.
    """
    try:
        knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise ClusterError(f"--ray-address {address}: {reason} (docs/cluster.md: how to start a cluster)") from None
    try:
        nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        cluster = survey(list(nodes.values()), device, precision, specs, wanted)
        if cluster.device == "cuda":
            smallest = smallest_gpu([node for node, resources in nodes.items() if resources.get("GPU")])
            cluster = replace(cluster, gpu_bytes=smallest)
        yield cluster
    finally:
        ray.shutdown()


def knock(address: str) -> None:
    """Raise OSError if nothing listens at the address, which Ray itself would say only after minutes, and ValueError if
    it is no address."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError("this is no address; write auto, local, HOST:PORT or ray://HOST:10001")
    socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def survey(
    nodes: Sequence[dict[str, float]],
    device: str,
    precision: Precision,
    specs: Sequence[DatasetSpec],
    wanted: int | None,
) -> Cluster:
    """Return what cells take of a cluster whose nodes have these resources (`CPU` and `GPU`, each with its number).

    Small images take one core, as on one machine, so that their results are the same bits; so do cells with a GPU.
    Other cells take a whole node, the smallest, or an equal share of all cores if `wanted` run at once.
    """
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    device = ("cuda" if gpus else "cpu") if device == "auto" else device
    if not cpus or (device == "cuda" and not gpus):
        raise ClusterError(f"no node of the Ray cluster offers a {'GPU' if cpus else 'processor core'}")
    cores = 1
    if device == "cpu" and not is_small(specs):
        cores = max(1, min(*cpus, sum(cpus) // (wanted or 1)))
    slots = gpus if device == "cuda" else sum(count // cores for count in cpus)
    return Cluster(device, precision, len(nodes), cores, slots, wanted)


def smallest_gpu(nodes: Sequence[str]) -> int:
    """Return the bytes of the smallest GPU of these nodes; 0 if none is free to tell."""
    asked = [
        gpu_bytes_there.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in nodes
    ]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_SECONDS)
    sizes = []
    for answer in answered:
        try:
            sizes.append(ray.get(answer))
        except RayError:  # the node died, or its GPU does not work: cells there will say so
            continue
    return min(sizes, default=0)


@ray.remote(num_cpus=0, num_gpus=0.001)
def gpu_bytes_there() -> int:
    return torch.cuda.get_device_properties(0).total_memory


@ray.remote
def speed_there(device: str, precision: Precision, threads: int) -> float:
    return probe_speed(set_up(device, precision, threads))
