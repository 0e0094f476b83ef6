"""The C library's allocator as a program finds it that does not set it up. It has no effect unless that is glibc."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

from benchmark.system.runtime import MIB, MMAP_THRESHOLD, TOP_PAD, TRIM_THRESHOLD, keep_freed_memory

LARGE = 32 * MIB
"""Where glibc's moving threshold ends: larger tensors come from the system and go back to it."""


@contextlib.contextmanager
def default_allocator() -> Iterator[None]:
    """Run the block as if `keep_freed_memory` had never been called. Memory that was kept before stays for
    afterwards."""
    libc = glibc()
    if libc is None:
        yield
        return
    libc.mallopt(MMAP_THRESHOLD, LARGE)
    libc.mallopt(TRIM_THRESHOLD, 2 * LARGE)
    libc.mallopt(TOP_PAD, 2**17)
    taken = take_large_holes(libc)
    try:
        yield
    finally:
        keep_freed_memory()
        for address in taken:
            libc.free(address)


def take_large_holes(libc: ctypes.CDLL) -> list[int]:
    """Allocate what is free in the heap in pieces of `LARGE` and more, without touching it. Otherwise a large tensor
    would be put there instead of being asked from the system. Return what is to be freed."""
    taken, size = [], 2**34
    while size >= LARGE:
        address = libc.malloc(size)
        if address is None:
            size //= 2
        elif ctypes.c_size_t.from_address(address - 8).value & 2:  # from the system: the heap has no such hole
            libc.free(address)
            size //= 2
        else:
            taken.append(address)
    return taken


def release_free_memory() -> None:
    """Give the pages of all free memory back to the system."""
    if libc := glibc():
        libc.malloc_trim(0)


def glibc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc of a 64-bit system."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_size_t) != 8:
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
        libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
        return libc if libc.malloc_trim and libc.mallopt else None
    except (OSError, AttributeError):  # musl and friends
        return None
