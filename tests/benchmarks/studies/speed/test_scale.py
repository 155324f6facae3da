"""The scale command on the smallest sizes, and its fit."""

import json

import pytest
import torch

from benchmarks.studies.speed import command, scale
from benchmarks.studies.speed.random_networks import KINDS, deep_network
from hessian.channels import find_channel_groups


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_has_the_layers_and_widths_asked_for_and_lets_gradients_through(kind):
    images = torch.randn(8, 3, 8, 8)
    model = deep_network(kind, 40, 6, images)
    groups = find_channel_groups(model, images[:1])
    assert len(groups) == 40
    assert {group.size for group in groups} == {6}
    model(images).square().sum().backward()
    norms = [parameter.grad.norm() for name, parameter in model.named_parameters() if parameter.ndim == 4]
    assert min(norms) / max(norms) > 1e-4


def test_every_part_of_every_network_has_a_row(tmp_path):
    path = tmp_path / "scale.json"
    sizes = [
        "--layers",
        "4",
        "6",
        "--width",
        "4",
        "--widths",
        "4",
        "8",
        "--depth",
        "4",
        "--coarse",
        "8",
        "--images",
        "10",
    ]
    assert command.main(["scale", *sizes, "--gpu", "cpu", "--threads", "1", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    names = {row["name"] for row in rows}
    assert {
        f"{kind}_{size}_{part}" for kind in KINDS for size in ("4x4", "6x4", "4x8") for part in scale.PARTS
    } <= names
    assert {name for name in names if "coarse_analysis" in name} == {
        f"{kind}_4x8_coarse_analysis{what}" for kind in KINDS for what in ("", "_memory")
    }
    assert all(0 < row["value"] <= 1 for row in rows if row["unit"] == "Spearman")
    assert [len(table.rows) for table in scale.scale_tables(rows)] == [6, 0, 2]


def test_the_exponent_is_the_power_law_of_the_points():
    assert scale.exponent([(10, 0.5), (20, 2.0), (40, 8.0)]) == pytest.approx(2.0)
