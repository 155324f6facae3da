"""``python -m benchmarks.studies.bench``."""

import sys

from benchmarks.studies.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
