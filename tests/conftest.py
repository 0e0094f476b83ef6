"""Shared fixtures: golden vectors, digits, toy methods, and a cache folder that is nobody's.

Golden vectors are read from the folder in GOLDEN_DIR (default tests/golden).
"""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark import data, networks
from tests.toys import TOYS, Drift, registered

Vectors = dict[str, Tensor]

# pytest-xdist runs one process per core; threads of each on top of that would only wait for each other. The variables
# reach the programs that tests start.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Vectors]:
    """golden(name) -> the tensors of one golden file."""
    folder = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parent / "golden"))
    return lambda name: load_file(folder / f"{name}.safetensors")


@pytest.fixture(scope="session")
def golden_convnet() -> Callable[[Vectors], networks.Network]:
    """golden_convnet(vectors) -> the ConvNet that holds their params.00 ...; every size is inferred.

    The image shape is that of the first tensor among images, real, syn.
    """

    def load(vectors: Vectors) -> networks.Network:
        params = [vectors[name] for name in sorted(vectors) if name.startswith("params.")]
        shape = next(tuple(vectors[name].shape[-3:]) for name in ("images", "real", "syn") if name in vectors)
        width, classes, depth = len(params[0]), len(params[-1]), (len(params) - 2) // 4
        network = networks.build("convnet", shape, classes, width=width, depth=depth).to(params[0].dtype)
        with torch.no_grad():
            for parameter, value in zip(network.parameters(), params, strict=True):
                assert parameter.shape == value.shape
                parameter.copy_(value)
        return network

    return load


class Operations(TorchDispatchMode):
    """Counts what torch's kernels are asked for, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[operation.overloadpacket.__name__] += 1
        return operation(*args, **(kwargs or {}))


@pytest.fixture
def operations() -> Operations:
    return Operations()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Tests that use the global stream see the same numbers in any order."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """A CPU generator with a fixed seed."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def digits():
    return data.load("digits", Path())


@pytest.fixture
def toys():
    """The toy methods are known by name."""
    Drift.condensed = 0
    with registered(*TOYS.values()):
        yield


@pytest.fixture
def norm_in_float32():
    """Autocast treats the norm on the CPU as it does on CUDA, the only place where uncompiled bfloat16 is used."""

    def precise(maps, groups, weight, bias, *rest):
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)):
            return torch.ops.aten.group_norm(maps.float(), groups, weight, bias, *rest)

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("group_norm", precise, "AutocastCPU")
        yield
