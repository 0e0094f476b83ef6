"""Wording that messages and tables share: the names nearest to a wrong one, and lengths of time."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def close_names(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three of the known names that look like `name`, whatever its case, the most alike first."""
    return difflib.get_close_matches(name.lower(), sorted(known), n=3, cutoff=0.4)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean ...?` with the closest known names, or with the list of all of them."""
    known = sorted(known)
    close = close_names(name, known)
    return f"; did you mean {' or '.join(close)}?" if close else f"; known: {', '.join(known)}"


def duration(seconds: float) -> str:
    """Return a length of time for people: `0.4 s`, `95 s`, `12 min`, `3.5 h`."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
