"""``python -m benchmarks.studies.any_network``."""

import sys

from benchmarks.studies.any_network.command import main

if __name__ == "__main__":
    sys.exit(main())
