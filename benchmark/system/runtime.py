"""The machine a cell runs on: device, precision, allocator, seeds. Set up once, before any tensor exists."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from benchmark.system.paths import cache_folder

Precision = Literal["float32", "bf16", "reference"]

MIB = 2**20

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""The names of mallopt's parameters in <malloc.h>."""


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed made of its purpose, for example `derive_seed(cell.key, "evaluate", 3)`. No clock or counter
    enters."""
    text = "\x1f".join(str(part) for part in parts)
    content = text.encode(errors="surrogatepass")  # names of files need not be text
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: by default every tensor above 32 MB goes back to the system and each new one
    pays for its page faults again, which costs a CPU training step about half its time. No effect elsewhere."""
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl and friends
        return
    mallopt(MMAP_THRESHOLD, 2**31 - 1)
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
    mallopt(TOP_PAD, 256 * MIB)


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Runtime:
    """Where and how to compute.

    precision: `float32` is the fast path (TF32 convolutions are allowed on CUDA). `bf16` is the same, but with
    first-order work (evaluation, experts, margins, the real side of what is matched) in bfloat16, on a CPU only where
    it is compiled; whatever is differentiated twice or unrolled stays in float32. `reference` is the plain eager
    oracle, by which the others are judged: one class and one network at a time, TF32 off.
    """

    device: torch.device
    precision: Precision = "float32"

    @property
    def batched(self) -> bool:
        """Whether classes and networks go through one batched computation. On a CPU, where arithmetic and not launches
        is the cost, a loop is faster (measured: 1.3x at 32x32), so the two paths share everything but this choice."""
        return self.device.type == "cuda" and self.precision != "reference"

    def generator(self, *purpose: object) -> torch.Generator:
        """Return a generator on the device, seeded by its purpose."""
        return torch.Generator(self.device).manual_seed(derive_seed(*purpose))

    def reset_peak_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM starts again from what is resident now

    def peak_memory_mib(self) -> float | None:
        """Return the peak memory since the last reset, in MiB: allocated on the device on CUDA, resident in the process
        on a CPU under Linux, None if the system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / MIB
        return _read_mib("/proc/self/status", "VmHWM")

    def free_memory_mib(self) -> float | None:
        """Return the memory that can be taken without pushing anything out, in MiB: of the device on CUDA, of the
        machine on a CPU under Linux, None if the system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0] / MIB
        return _read_mib("/proc/meminfo", "MemAvailable")

    def gpu_bytes(self) -> int | None:
        """Return the memory of the GPU, free or not; None on a CPU."""
        return torch.cuda.get_device_properties(self.device).total_memory if self.device.type == "cuda" else None

    def describe(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        threads = torch.get_num_threads()
        return f"{platform.machine()} CPU, {threads} thread{'s' * (threads > 1)}"


def _read_mib(path: str, entry: str) -> float | None:
    """An entry of one of Linux's lists of memory, None elsewhere."""
    with contextlib.suppress(OSError):
        found = re.search(rf"{entry}:\s+(\d+) kB", Path(path).read_text())
        return int(found[1]) / 1024 if found else None
    return None


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether the device is a CPU with instructions for bfloat16 products, where the gain of bfloat16 was
    measured."""
    if device.type != "cpu":
        return False
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def settle_compiler() -> None:
    """Tell torch's compiler where to keep what it compiles, to call the C++ compiler for as many functions at once as
    there are cores, and to start no helper processes, which would outlive a killed one and are of use only on GPUs. If
    the C++ compiler can read torch's C++20, also tell it the vector instructions of the processor, which torch would
    find out in 10 s.

    Torch reads this once, when its compiler is first imported; a convolution on the meta device is enough for that.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(cores()))
    os.environ.setdefault("TORCH_WARM_POOL", "0")
    os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")


def set_up(device: str = "auto", precision: Precision = "float32", threads: int | None = None) -> Runtime:
    """Choose the device (`auto`: CUDA if present, otherwise the CPU) and set process-wide numeric switches.

    threads: how many of the CPU an operation may use; None leaves what torch found. Raises ValueError if the device
    does not exist.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.rand(1, generator=torch.Generator(chosen), device=chosen).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {device} is not available here: {reason}") from None
    settle_compiler()
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    tf32 = precision != "reference"
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    return Runtime(chosen, precision)
