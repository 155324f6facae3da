"""benchmarks/results/leaderboard.md says what the submitted files and the package's networks make of it."""

import shutil

import pytest

from benchmarks.studies.ladder.page import FOLDER, write_page
from prune_gym.bench.networks import NETWORKS_FILE

PAGE = FOLDER.parent / "leaderboard.md"


@pytest.mark.skipif(not (NETWORKS_FILE.is_file() and PAGE.is_file()), reason="the package has no bench yet")
def test_the_leaderboard_is_that_of_the_submitted_files(tmp_path):
    copied = tmp_path / "leaderboard"
    shutil.copytree(FOLDER, copied)
    assert write_page(copied).read_text() == PAGE.read_text(), "python -m benchmarks.studies.ladder page makes it anew"
