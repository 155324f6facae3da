"""Atomic writes under faults, and tensor files that prove their content."""

import errno
import os
import subprocess
import sys

import pytest
import torch

from hessian.support import files
from hessian.support.files import read_tensor_file, tensor_bytes, write_atomic


def test_equal_content_is_equal_bytes():
    tensors = {"b": torch.arange(3.0), "a": torch.zeros(2, dtype=torch.int64)}
    written = {tensor_bytes(tensors, {"one": "1", "two": "2", "three": "3"}) for _ in range(30)}
    assert len(written) == 1


def test_any_flipped_bit_of_a_tensor_file_is_noticed(tmp_path):
    path = tmp_path / "t.safetensors"
    data = tensor_bytes({"weight": torch.randn(4)}, {"about": "x"})
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"t\.safetensors"):
            read_tensor_file(path)


def test_a_full_disk_says_which_file_and_that_the_old_one_is_safe(tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "result.json", "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"No space left for 3 bytes.*what was written earlier is safe.*result\.json"
    ) as caught:
        write_atomic(path, "new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_the_folder_is_flushed_after_the_rename(tmp_path, monkeypatch):
    events = []
    real_replace, real_fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("rename"), real_replace(*names)))

    def fsync(descriptor):
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "x", "1")
    assert events == ["file", "rename", "folder"]


def test_a_file_system_that_cannot_flush_folders_is_no_error(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "not here")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert write_atomic(tmp_path / "x", "1").read_text() == "1"


def test_what_killed_writers_left_is_swept_and_what_living_ones_write_is_not(tmp_path):
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, sys; os.replace = lambda *_: os._exit(9); "
            "from hessian.support.files import write_atomic; write_atomic(sys.argv[1], 'half')",
            str(tmp_path / "x"),
        ],
        check=False,
    )
    assert killed.returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    living = tmp_path / f".x.{files._HOST}-{os.getpid()}-0.tmp"
    elsewhere = tmp_path / ".x.00000000-1-0.tmp"
    for path in (living, elsewhere):
        path.write_text("")
    write_atomic(tmp_path / "x", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"x", living.name, elsewhere.name}
