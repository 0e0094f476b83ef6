#!/usr/bin/env python3
"""The benchmark's command line, from a checkout: `python bench.py --help`. Installed, it is `condensation-bench`."""

import sys

from benchmark.cli import main

if __name__ == "__main__":
    sys.exit(main())
