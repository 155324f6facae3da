import hashlib
import json
import os
import struct

import numpy as np
import pytest
import safetensors.torch
import torch

from hessian.support.files import write_atomic
from prune_gym.support.files import cache_dir, load_safetensors, save_safetensors_atomic, sha256_of, write_json_atomic

TENSORS = {
    "weight": torch.arange(6.0).reshape(2, 3),
    "half": torch.tensor([1.5], dtype=torch.bfloat16),
    "count": torch.tensor(3),
    "none": torch.zeros(0, 4),
}


def test_a_file_is_written_whole_with_its_folders_and_nothing_else(tmp_path):
    path = write_atomic(tmp_path / "a" / "b.txt", "größe")
    assert path.read_bytes() == "größe".encode()
    assert [entry.name for entry in path.parent.iterdir()] == ["b.txt"]


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "file", b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_gets_the_permissions_of_the_umask(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    assert write_atomic(tmp_path / "atomic", b"").stat().st_mode == plain.stat().st_mode


def test_json_comes_back_and_nan_is_refused_before_anything_is_written(tmp_path):
    path = write_json_atomic(tmp_path / "x.json", {"a": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="Out of range float"):
        write_json_atomic(tmp_path / "y.json", {"a": float("nan")})
    assert not (tmp_path / "y.json").exists()


def test_tensors_and_metadata_come_back_as_they_were(tmp_path):
    path = save_safetensors_atomic(tmp_path / "t.safetensors", TENSORS, {"task": "digits"})
    tensors, metadata = load_safetensors(path)
    assert metadata == {"task": "digits"}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_views_of_one_storage_can_be_saved(tmp_path):
    base = torch.arange(4.0)
    path = save_safetensors_atomic(tmp_path / "t.safetensors", {"a": base, "b": base[::2]})
    assert torch.equal(load_safetensors(path)[0]["b"], torch.tensor([0.0, 2.0]))


def test_loading_does_not_depend_on_the_file_staying(tmp_path):
    path = save_safetensors_atomic(tmp_path / "t.safetensors", TENSORS)
    tensors, _ = load_safetensors(path)
    path.write_bytes(b"")
    assert torch.equal(tensors["weight"], TENSORS["weight"])


def test_a_missing_file_is_named_with_its_neighbours(tmp_path):
    save_safetensors_atomic(tmp_path / "there.safetensors", TENSORS)
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors; .* has: there\.safetensors"):
        load_safetensors(tmp_path / "gone.safetensors")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_safetensors(tmp_path / "nowhere" / "gone.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_file_is_refused_at_any_length(tmp_path, keep):
    path = save_safetensors_atomic(tmp_path / "t.safetensors", TENSORS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        load_safetensors(path)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_empty_arrays_of_numpy_are_kept(tmp_path, shape):
    path = save_safetensors_atomic(tmp_path / "empty.safetensors", {"a": torch.as_tensor(np.zeros(0).reshape(shape))})
    tensors, _ = load_safetensors(path)
    assert tensors["a"].shape == shape
    assert tensors["a"].dtype == torch.float64
    assert sha256_of(torch.as_tensor(np.zeros(shape))) == sha256_of(torch.zeros(shape, dtype=torch.float64))


def test_one_flipped_bit_in_a_tensor_is_noticed(tmp_path):
    path = save_safetensors_atomic(tmp_path / "t.safetensors", TENSORS)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="does not match its checksum"):
        load_safetensors(path)


def test_changed_metadata_is_noticed(tmp_path):
    path = save_safetensors_atomic(tmp_path / "t.safetensors", TENSORS, {"seed": "17"})
    path.write_bytes(path.read_bytes().replace(b'"17"', b'"18"'))
    with pytest.raises(ValueError, match="does not match its checksum"):
        load_safetensors(path)


def test_a_renamed_tensor_is_noticed(tmp_path):
    path = save_safetensors_atomic(tmp_path / "t.safetensors", TENSORS)
    path.write_bytes(path.read_bytes().replace(b'"half"', b'"hale"'))
    with pytest.raises(ValueError, match="does not match its checksum"):
        load_safetensors(path)


def test_a_file_without_checksum_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no checksum"):
        load_safetensors(path)


def test_a_header_longer_than_the_file_is_refused(tmp_path):
    path = tmp_path / "t.safetensors"
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(ValueError, match="truncated"):
        load_safetensors(path)


@pytest.mark.parametrize(("metadata", "error"), [({"sha256": "x"}, ValueError), ({"seed": 3}, TypeError)])
def test_metadata_that_cannot_be_kept_is_refused(tmp_path, metadata, error):
    with pytest.raises(error, match=next(iter(metadata))):
        save_safetensors_atomic(tmp_path / "t.safetensors", TENSORS, metadata)


DIFFERENT = [
    (("ab", "c"), ("a", "bc")),
    ((1,), (1.0,)),
    ((1,), ("1",)),
    ((True,), (1,)),
    ((torch.zeros(2, 3),), (torch.zeros(3, 2),)),
    ((torch.zeros(2),), (torch.zeros(2, dtype=torch.int32),)),
    (([1, 2], [3]), ([1], [2, 3])),
    (({"a": 1, "b": 2},), ({"a": 2, "b": 1},)),
    ((b"a",), ("a",)),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_values_have_different_digests(one, other):
    assert sha256_of(*one) != sha256_of(*other)


def test_equal_values_have_equal_digests():
    assert sha256_of({"a": 1, "b": 2}) == sha256_of({"b": 2, "a": 1})
    assert sha256_of((1, 2)) == sha256_of([1, 2])
    strided = torch.arange(6.0).reshape(3, 2).T
    assert sha256_of(strided) == sha256_of(strided.clone(memory_format=torch.contiguous_format))


def test_a_digest_is_the_sha256_of_kinds_lengths_and_bytes():
    """Cache files of earlier releases stay valid only as long as this holds."""
    spelled = b"str:4:task" + b"float:3:0.9" + b"tensor torch.int64 (3,):24:" + struct.pack("<3q", 0, 1, 2)
    assert sha256_of("task", 0.9, torch.arange(3)) == hashlib.sha256(spelled).hexdigest()


def test_what_cannot_be_hashed_is_refused():
    with pytest.raises(TypeError, match="cannot hash a set"):
        sha256_of({1, 2})


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("PRUNE_GYM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "prune_gym"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "prune_gym"
    assert not cache_dir().exists()
