"""The folders in which the user's files lie by default."""

import os
from pathlib import Path


def data_folder() -> Path:
    """Return the folder of the data sets: $CONDENSE_DATA, or ~/condense-data."""
    return Path(os.environ.get("CONDENSE_DATA") or "~/condense-data").expanduser()


def cache_folder() -> Path:
    """Return the folder for what several runs share and can be made again (feature networks, whitening matrices,
    decoded images): $CONDENSE_CACHE, or condensation-bench in the user's cache folder."""
    if os.environ.get("CONDENSE_CACHE"):
        return Path(os.environ["CONDENSE_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "condensation-bench"
