"""`python -m benchmarks`, which `make bench` and `make bench-quick` call."""

import sys

from benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main())
