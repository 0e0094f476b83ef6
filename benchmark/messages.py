"""What an error says, for a sentence of ours."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Of an error's message; the error's kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
