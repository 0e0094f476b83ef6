"""The command line: what the user asked for, and what the terminal shows."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. `bench.py` and the command `condensation-bench` call it."""
    from benchmark.cli import command  # the whole program, which naming this room does not need

    return command.main(arguments)
