"""What all loaders share about files: the error that users see, and a limit on waiting for the network."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NETWORK_TIMEOUT_S = 30.0
_LISTED = 6


class DataError(ValueError):
    """Data that is missing, damaged or not a data set; the message names the files and says how to mend it."""


def missing(title: str, searched: Path, absent: Sequence[str], page: str, holds: str, reason: object) -> DataError:
    """Return the error for a data set `title` that is not in folder `searched`.

    absent: paths relative to `searched`. page: where to get them. holds: what a data folder must contain. reason: why
    the download did not help.
    """
    return DataError(
        f"{title} not found. Searched {searched} for {_listed(absent)} ({reason}). Get it from {page} and "
        f"place it there, or point --data-dir (or the variable CONDENSE_DATA) at a folder with {holds}."
    )


def damaged(title: str, paths: Sequence[Path | str], reason: object) -> DataError:
    """Return the error for `paths` that exist but cannot be right; `reason` is what the reader said."""
    return DataError(
        f"{title}: damaged or incomplete: {_listed([str(path) for path in paths])} ({reason}). Replace it by "
        "an intact copy, or delete it and run again to have it fetched where that is possible."
    )


@contextmanager
def bounded_network() -> Iterator[None]:
    """Give up on a silent server: urllib waits for ever behind a firewall that drops packets."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more
