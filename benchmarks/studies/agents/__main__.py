"""``python -m benchmarks.studies.agents``."""

import sys

from benchmarks.studies.agents.command import main

if __name__ == "__main__":
    sys.exit(main())
