"""``python -m benchmarks.studies.methods``."""

import sys

from benchmarks.studies.methods.command import main

if __name__ == "__main__":
    sys.exit(main())
