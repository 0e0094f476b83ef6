"""`bench.py` in one process, saving after every step, with short evaluations, for tests that kill it.

`main()` takes its arguments from the command line. What is computed does not depend on how often it is saved. There is
no report unless $REPORT is set. $KILL is `PLACE COUNT SECONDS`: the process kills itself that many seconds after it was
COUNT times at a place: loading, experts, steps, pruning, evaluation, writing, report.
"""

import os
import signal
import sys
import threading

from benchmark import cli, data
from benchmark.cli import command
from benchmark.engines import job
from benchmark.grid import hours
from benchmark.system import files
from benchmark.training import recipes

SAVE_EVERY_SECONDS = 0.02
EVALUATION_STEPS = 25
PHASES = {"experts": "experts", "features": "experts", "condense": "steps", "evaluate": "evaluation"}
"""Place by the first word of a phase; the others belong to HMN's pruning."""


class Killer:
    """Counts visits to one place; the last one starts the clock."""

    def __init__(self, place: str, count: str, seconds: str) -> None:
        self.place, self.left, self.seconds = place, int(count), float(seconds)

    def at(self, place: str) -> None:
        self.left -= place == self.place
        if place == self.place and self.left == 0:
            threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def visiting(self, place: str, function):
        def visit(*given, **named):
            self.at(place)
            return function(*given, **named)

        return visit


def main() -> int:
    recipes.MINIMUM_STEPS = EVALUATION_STEPS
    hours.probe_speed = lambda runtime: 1e10
    killer = Killer(*os.environ.get("KILL", "nowhere 1 0").split())
    data.load = killer.visiting("loading", data.load)
    files.os.fsync = killer.visiting("writing", os.fsync)
    write_report = killer.visiting("report", command.write_report)
    command.write_report = write_report if os.environ.get("REPORT") else lambda store, console: 0
    run = job.Run

    def saving_often(directory, key, seconds, progress, *rest):
        def tell(phase, *told):
            killer.at(PHASES.get(phase.split()[0], "pruning"))
            progress(phase, *told)

        return run(directory, key, SAVE_EVERY_SECONDS, tell, *rest)

    job.Run = saving_often
    return cli.main([*sys.argv[1:], "--workers", "1"])  # others would not know these changes
