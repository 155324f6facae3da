"""``python -m benchmarks.studies.ladder``."""

import sys

from benchmarks.studies.ladder.command import main

if __name__ == "__main__":
    sys.exit(main())
