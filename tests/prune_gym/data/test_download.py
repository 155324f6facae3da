import hashlib

import pytest

from prune_gym.data.download import RemoteFile, fetch
from prune_gym.data.fashion import load_fashion_splits, missing_fashion


@pytest.fixture
def remote(tmp_path):
    path = tmp_path / "server" / "file.bin"
    path.parent.mkdir()
    path.write_bytes(b"content")
    return RemoteFile(path.as_uri(), hashlib.sha256(b"content").hexdigest())


def test_a_file_is_fetched_once_and_again_when_damaged(remote, tmp_path):
    path = fetch(remote, tmp_path / "data")
    assert path.read_bytes() == b"content"
    path.write_bytes(b"conte")
    assert fetch(remote, tmp_path / "data").read_bytes() == b"content"
    (tmp_path / "server" / "file.bin").unlink()
    assert fetch(remote, tmp_path / "data") == path


def test_other_content_than_expected_is_not_kept(remote, tmp_path):
    (tmp_path / "server" / "file.bin").write_bytes(b"else")
    with pytest.raises(ValueError, match="is not the file it was"):
        fetch(remote, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_server_out_of_reach_is_an_os_error_that_says_what_to_do(remote, tmp_path):
    (tmp_path / "server" / "file.bin").unlink()
    with pytest.raises(OSError, match=r"cannot download .*file\.bin.*fetch it by other means into"):
        fetch(remote, tmp_path / "data")


def test_fashion_is_downloaded_where_it_is_missing(tmp_path, monkeypatch):
    from prune_gym.data import fashion
    from tests.prune_gym.data.test_splits import write_fashion

    (tmp_path / "server").mkdir()
    write_fashion(tmp_path / "server", count=2100, suffix=".gz")
    files = []
    for file in fashion.FILES:
        path = tmp_path / "server" / file.name
        files.append(RemoteFile(path.as_uri(), hashlib.sha256(path.read_bytes()).hexdigest()))
    monkeypatch.setattr(fashion, "FILES", tuple(files))
    monkeypatch.setattr(fashion, "DEBIAN_FOLDER", tmp_path / "none")
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path / "cache"))
    assert "train-images-idx3-ubyte" in missing_fashion()
    splits = load_fashion_splits(calibration_size=50, download=True)
    assert len(splits.train) == 100
    assert missing_fashion() == ""
    assert len(load_fashion_splits(calibration_size=50).train) == 100
