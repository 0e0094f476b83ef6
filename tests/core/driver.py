"""`bench.py` in one process, saving after every step, with short evaluations and no report, for tests that kill it.

Run as `python -m tests.core.driver ARGUMENTS`. What is computed does not depend on how often it is saved.
"""

import sys

from benchmark import cli, plan, recipes, worker

SAVE_EVERY_SECONDS = 0.02
EVALUATION_STEPS = 25


def main() -> int:
    recipes.MINIMUM_STEPS = EVALUATION_STEPS
    plan.probe_speed = lambda runtime: 1e10
    cli.write_report = lambda store, console: 0
    run = worker.Run
    worker.Run = lambda directory, key, seconds, *rest: run(directory, key, SAVE_EVERY_SECONDS, *rest)
    return cli.main([*sys.argv[1:], "--workers", "1"])  # others would not know these changes


if __name__ == "__main__":
    sys.exit(main())
