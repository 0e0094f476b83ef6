"""The errors that end a cell before it is done, and the words in which an error is quoted."""

from __future__ import annotations


class CellError(Exception):
    """A cell that cannot be done as asked; `reason` is the short text that tables print.

    It is raised for what the user can mend (a budget too small, too few images), never for a defect.
    """

    reason = "failed"


class BudgetError(CellError):
    reason = "budget too small"


class TooFewImages(CellError):
    reason = "too few images"


class NotFinite(CellError):
    reason = "loss not finite"


class Stopped(Exception):
    """The run was asked to stop; its state is saved."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the kind of the error if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
