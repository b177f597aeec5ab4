"""`python -m benchmarks.endurance`, which `make endurance` calls."""

import sys

from benchmarks.endurance.command import main

if __name__ == "__main__":
    sys.exit(main())
