import pytest
import torch
from torch import nn

from hessian.discovery.discover import discover
from hessian.discovery.find import find_channel_groups
from tests.hessian import networks

X = torch.randn(2, *networks.IMAGE)


def names(model, **kwargs):
    return [group.name for group in find_channel_groups(model, X, **kwargs)]


def by_name(model):
    return {group.name: group for group in find_channel_groups(model, X)}


def test_a_residual_stream_is_one_layer_with_all_its_producers_and_consumers():
    groups = by_name(networks.make(networks.Residual))
    assert list(groups) == ["stem", "conv1", "conv3", "conv4"]
    stream = groups["stem"]
    assert [member.module for member in stream.producers] == ["stem", "conv2"]
    assert [member.module for member in stream.consumers] == ["conv1", "conv3", "down"]
    assert {member.module for member in stream.carriers} == {"bn0", "bn2"}


def test_concatenated_layers_own_disjoint_columns_that_cover_their_consumer():
    groups = by_name(networks.make(networks.Concat))
    left, right = groups["left"].consumers[0], groups["right"].consumers[0]
    assert left.module == right.module == "merge"
    assert sorted([*left.indices.flatten().tolist(), *right.indices.flatten().tolist()]) == list(range(9))


def test_a_channel_behind_a_flatten_owns_all_its_positions():
    member = by_name(networks.make(networks.Concat))["merge"].consumers[0]
    assert member.module == "head"
    assert member.indices.tolist() == [list(range(4 * i, 4 * i + 4)) for i in range(6)]


def test_a_grouped_convolution_makes_units_of_one_channel_in_every_group():
    groups = by_name(networks.make(networks.Grouped))
    assert groups["first"].units == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert groups["grouped"].units == tuple((i, i + 6) for i in range(6))
    assert groups["last"].num_units == 5


def test_depthwise_and_excitation_belong_to_the_layer_they_pass_on():
    group = by_name(networks.make(networks.MobileBlock))["expand"]
    assert [member.module for member in group.producers] == ["expand", "excite"]
    assert "depthwise" in {member.module for member in group.carriers}
    assert [member.module for member in group.consumers] == ["squeeze", "project"]


def test_network_outputs_are_excluded_by_the_graph_not_by_type():
    convolutional_head = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert names(convolutional_head) == ["0"]


def test_the_model_is_left_as_it_was():
    model = networks.make(networks.Residual).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    find_channel_groups(model, X)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_ignored_layers_keep_their_channels_by_name_or_module():
    model = networks.make(networks.Residual)
    assert "conv1" not in names(model, ignored_layers=["conv1"])
    assert "stem" not in names(model, ignored_layers=[model.conv2])


def test_an_unknown_ignored_layer_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'conv1'"):
        names(networks.make(networks.Residual), ignored_layers=["conv1x"])


def test_an_ignored_type_is_refused_instead_of_silently_doing_nothing():
    with pytest.raises(TypeError, match="not types"):
        names(networks.make(networks.Residual), ignored_layers=[nn.Linear])


def test_frozen_parameters_change_nothing():
    model = networks.make(networks.Residual)
    found = names(model)
    model.requires_grad_(False)
    assert names(model) == found


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.shared, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.shared(self.shared(self.stem(x))).mean(dim=(2, 3)))


def test_a_module_used_twice_is_tied_to_all_that_it_reads_and_makes():
    (group,) = find_channel_groups(Twice(), X)
    assert (group.name, group.size) == ("stem", 3)
    assert [member.module for member in group.producers] == ["stem", "shared"]
    assert [member.module for member in group.consumers] == ["shared", "head"]


def test_a_model_without_prunable_layers_says_so():
    with pytest.raises(ValueError, match="no prunable layer"):
        names(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)))


def test_what_attention_mixes_is_pinned_by_name():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.attend = nn.Conv2d(3, 4, 4, stride=4), nn.MultiheadAttention(4, 2, batch_first=True)
            self.hidden, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            x = self.stem(x).flatten(2).transpose(1, 2)
            return self.head(torch.relu(self.hidden(self.attend(x, x, x)[0].mean(dim=1))))

    found = discover(Attention(), X)
    assert [group.name for group in found.groups] == ["hidden"]
    assert {stay.name for stay in found.pinned} == {"stem", "head"}


def test_shuffled_stages_are_pinned_and_the_rest_is_pruned():
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.shufflenet_v2_x0_5(weights=None)
    found = discover(model, torch.randn(1, 3, 64, 64))
    assert "stage3.1.branch2.0" in {group.name for group in found.groups}
    assert any(stay.reason == "its channels can only leave all together" for stay in found.pinned)


@pytest.mark.parametrize("input_first", [True, False])
def test_channels_concatenated_with_the_networks_input_keep_their_place_beside_it(input_first):
    class InputConcat(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.merge, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 5, 1), nn.Linear(5, 2)

        def forward(self, x):
            parts = [x, self.conv(x)] if input_first else [self.conv(x), x]
            return self.head(torch.relu(self.merge(torch.cat(parts, dim=1))).mean(dim=(2, 3)))

    groups = {group.name: group for group in find_channel_groups(InputConcat(), X)}
    assert list(groups) == ["conv", "merge"]
    first = 3 if input_first else 0
    assert groups["conv"].consumers[0].indices.flatten().tolist() == list(range(first, first + 4))
