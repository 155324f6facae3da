"""``python -m benchmarks.studies.accelerator``."""

import sys

from benchmarks.studies.accelerator.command import main

if __name__ == "__main__":
    sys.exit(main())
