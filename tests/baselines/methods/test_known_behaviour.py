"""What each published algorithm is known to do, against an oracle."""

import copy

import numpy as np
import pytest
import torch
import torch_pruning as tp
from torch import nn
from torch.nn.functional import cross_entropy

from baselines.methods import adaprune, amc, autocompress, dep_graph, gnn, hrank, taylor
from baselines.workshop import removal, taps
from baselines.workshop.workbench import Scorer, Workbench
from hessian.channels import find_channel_groups
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.training import evaluate_model
from tests.baselines.fast import prune
from tests.hessian import networks

pytestmark = pytest.mark.filterwarnings("ignore:.*more than 1 % off the target")


@pytest.fixture
def bench(tiny_task):
    return Workbench(tiny_task.model, tiny_task.calibration, 0.5, ratio_of="flops")


# Shared removal


def test_lowest_scores_go_first_up_to_the_target(bench):
    generator = bench.generator()
    scores = [torch.rand(group.num_units, generator=generator) for group in bench.groups]
    selection = removal.remove_lowest(removal.everything(bench.groups), scores, bench.target)
    assert bench.target.reached(removal.counts(selection))
    pairs = list(zip(scores, selection, strict=True))
    gone = [(float(s[u]), layer) for layer, (s, m) in enumerate(pairs) for u in np.flatnonzero(~m)]
    left = [float(s[u]) for s, m in pairs for u in np.flatnonzero(m)]
    assert max(gone)[0] < min(left)
    before_the_last = removal.counts(selection)
    before_the_last[max(gone)[1]] += 1
    assert not bench.target.reached(before_the_last)


@pytest.mark.parametrize("seed", range(5))
def test_landing_passes_over_units_that_are_too_large(bench, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.rand(group.num_units, generator=generator) for group in bench.groups]
    landed = removal.remove_onto(removal.everything(bench.groups), scores, bench.target)
    assert 0.5 <= bench.target.reduction(removal.counts(landed)) <= 0.51


def test_gates_at_zero_compute_what_surgery_leaves(bench, tiny_task):
    selection = removal.keep_best([torch.rand(group.num_units) for group in bench.groups], bench.target.uniform())
    images = tiny_task.reward.images
    with torch.no_grad(), taps.gated(bench.dense, bench.groups, bench.gates(selection)):
        gated = bench.dense(images)
    torch.testing.assert_close(gated, bench.cut(selection)(images))
    accuracy = evaluate_model(bench.cut(selection), tiny_task.calibration).accuracy
    assert Scorer(bench).accuracy(selection) == pytest.approx(accuracy)


def test_gates_act_on_inputs_given_by_keyword():
    model, (x, _) = networks.make(networks.ByKeyword), networks.images(2)
    groups = find_channel_groups(model, x)
    gates = {group.name: torch.linspace(0, 1, group.size) for group in groups}
    twin = networks.make(networks.ByPosition)
    with taps.gated(model, groups, gates), taps.gated(twin, groups, gates), torch.no_grad():
        gate, expected = model(x), twin(x)
    assert torch.equal(gate, expected)
    assert not torch.equal(gate, model(x))


# DepGraph


def test_depgraph_ranks_a_planted_dead_coupled_channel_last(tiny_task):
    model = copy.deepcopy(tiny_task.model)
    with torch.no_grad():  # channel 5 of the residual stream, in everything coupled to it
        for module in (model.conv1, model.conv3, model.bn1, model.bn3):
            module.weight[5] = 0
        model.conv2.weight[:, 5] = model.conv4.weight[:, 5] = 0
    bench = Workbench(model, tiny_task.calibration)
    scores = dep_graph.importances(bench.dense, bench.groups, removal.everything(bench.groups))
    ranking = sorted((float(value), layer, unit) for layer, s in enumerate(scores) for unit, value in enumerate(s))
    assert ranking[0][1:] == (0, 5)
    _, info = prune("dep-graph", model, tiny_task.calibration, 0.05, return_info=True)
    assert info.plan["conv1"] == [5]


def test_depgraph_importance_is_torch_prunings_on_the_network_as_pruned(tiny_task):
    bench = Workbench(tiny_task.model, tiny_task.calibration)
    selection = removal.keep_best([torch.rand(group.num_units) for group in bench.groups], bench.target.uniform())
    dep_graph.silence(bench.dense, bench.groups, selection)
    scores = dep_graph.importances(bench.dense, bench.groups, selection)
    small = PhysicalPruner(tiny_task.model, tiny_task.example_input).prune(bench.plan(selection))
    graph = tp.DependencyGraph().build_dependency(small, example_inputs=(tiny_task.example_input,))
    peer = tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean", normalizer="mean")
    modules = dict(small.named_modules())
    for group, score, there in zip(bench.groups, scores, selection, strict=True):
        root = modules[group.name]
        width = root.out_channels if hasattr(root, "out_channels") else root.out_features
        raw = graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, list(range(width)))
        torch.testing.assert_close(score[torch.from_numpy(there)], peer(raw))


def test_depgraph_sparse_learning_adds_the_papers_gradient(tiny_task, monkeypatch):
    bench = Workbench(tiny_task.model, tiny_task.calibration)
    given = {}
    monkeypatch.setattr(bench, "train", lambda model, **options: given.update(options))
    dep_graph.sparse_learning(bench, bench.dense, 1, 0.01, 5e-4)
    images, labels = bench.data.images[:8], bench.data.labels[:8]
    weight = bench.dense.fc2.weight  # a consumer of the layer fc1 alone
    logits = bench.dense(images)
    (added,) = torch.autograd.grad(
        given["loss_of"](logits, labels, images) - cross_entropy(logits, labels), weight, retain_graph=True
    )
    root = dep_graph.coupled_squares(bench.groups[3], bench.modules).sqrt().detach()
    gamma = 2.0 ** (4 * (root.max() - root) / (root.max() - root.min()))
    torch.testing.assert_close(added, 5e-4 * gamma * weight, rtol=1e-3, atol=1e-8)


def test_depgraph_sparse_learning_widens_the_spread_of_importances(tiny_task):
    def spread(model):
        return max(float(s.std()) for s in dep_graph.importances(model, bench.groups, removal.everything(bench.groups)))

    bench = Workbench(tiny_task.model, tiny_task.calibration)
    strong, none = bench.copy_dense(), bench.copy_dense()
    dep_graph.sparse_learning(bench, strong, 2, 0.02, 5e-2)
    dep_graph.sparse_learning(bench, none, 2, 0.02, 1e-12)
    assert spread(strong) > spread(none)


# HRank


def test_hranks_score_is_the_matrix_rank_of_the_feature_maps(tiny_task):
    bench = Workbench(tiny_task.model, tiny_task.calibration)
    scores = hrank.feature_ranks(bench, 10)
    model, images = bench.dense, bench.data.images[:10]
    with torch.no_grad():
        stream = torch.relu(model.bn1(model.conv1(images)))
        inner = torch.relu(model.bn2(model.conv2(stream)))
        after = torch.relu(stream + model.bn3(model.conv3(inner)))
        last = torch.relu(model.bn4(model.conv4(after)))
        hidden = torch.relu(model.fc1(last.flatten(1)))
    ranks = lambda maps: np.linalg.matrix_rank(maps.numpy()).mean(axis=0)  # noqa: E731
    np.testing.assert_allclose(scores[0], (ranks(stream) + ranks(after)) / 2)
    np.testing.assert_allclose(scores[1], ranks(inner))
    np.testing.assert_allclose(scores[2], ranks(last))
    np.testing.assert_allclose(scores[3], (hidden > 0).double().mean(dim=0))


def test_hrank_takes_layer_rates(tiny_task):
    rates = {"conv1": 0.1, "conv2": 0.8, "conv4": 0.1, "fc1": 0.1}
    _, info = prune("hrank", tiny_task.model, tiny_task.calibration, 0.2, layer_ratios=rates, return_info=True)
    assert info.kept["conv2"] / 6 < info.kept["conv1"] / 8
    with pytest.raises(ValueError, match="did you mean 'conv2'"):
        prune("hrank", tiny_task.model, tiny_task.calibration, layer_ratios={"conv22": 0.5})


# Taylor


def test_taylors_score_is_the_squared_finite_difference_of_the_gate(tiny_task):
    bench = Workbench(tiny_task.model, tiny_task.calibration)
    model = bench.dense.double()
    images, labels = tiny_task.calibration.images[:16].double(), tiny_task.calibration.labels[:16]
    gates = {group.name: torch.ones(group.size, dtype=torch.float64, requires_grad=True) for group in bench.groups}
    terms = taylor.squared_terms(model, bench.groups, gates, images, labels)

    def loss_behind_norms(factor, channel):
        """The gate where the paper has it: behind the batch norms of all blocks that write to the stream."""

        def scale(_module, _inputs, output):
            output = output.clone()
            output[:, channel] *= factor
            return output

        handles = [norm.register_forward_hook(scale) for norm in (model.bn1, model.bn3)]
        with torch.no_grad():
            loss = float(cross_entropy(model(images), labels))
        for handle in handles:
            handle.remove()
        return loss

    step = 1e-5
    for channel in range(8):
        slope = (loss_behind_norms(1 + step, channel) - loss_behind_norms(1 - step, channel)) / (2 * step)
        blocks = 2
        assert float(terms[0][channel]) == pytest.approx(slope**2 / blocks, rel=1e-4, abs=1e-12)


def test_taylor_trains_while_it_prunes(tiny_task):
    _, info = prune("taylor", tiny_task.model, tiny_task.calibration, removals=3, frequency=5, return_info=True)
    assert info.backward_passes == 15
    assert info.images == 15 * 32


def test_taylor_can_remove_the_papers_fixed_number(tiny_task):
    _, info = prune("taylor", tiny_task.model, tiny_task.calibration, channels_per_removal=4, return_info=True)
    assert info.backward_passes == 2 * np.ceil(18 / 4)  # half of 36 channels


# AutoCompress


def test_annealing_beats_a_random_walk_at_equal_evaluations(bench):
    best = np.array([0.1, 0.7, 0.3, 0.6])

    def run(seed, walk):
        visited = []

        def energy(kept):
            visited.append(1)
            return 100 * float(np.square(1 - kept / bench.target.limits.units - best).sum())

        generator = np.random.default_rng(seed)
        hot = autocompress.Cooling(start=1e9, stop=1e9 * 0.2 / 10)
        cooling = hot if walk else autocompress.Cooling()
        found = autocompress.anneal(energy, bench.target, generator.uniform(size=4), cooling, generator)[1]
        return found, len(visited)

    annealed, walked = ([run(seed, walk) for seed in range(20)] for walk in (False, True))
    assert {count for _, count in annealed} == {count for _, count in walked}
    assert np.mean([found for found, _ in annealed]) < np.mean([found for found, _ in walked])


def test_admms_z_is_exactly_structured_and_the_primal_residual_falls(bench):
    model, everything = bench.copy_dense(), removal.everything(bench.groups)
    kept = bench.target.uniform()
    chosen, found = autocompress.admm(bench, model, everything, kept, 4, 2, 0.02, 1e-3, 10.0)
    for group, count, there in zip(bench.groups, kept, chosen, strict=True):
        for member in group.producers:
            rows = found.structured[member.module].flatten(1).any(dim=1)
            assert int(rows.sum()) == int(count)
            assert set(rows.nonzero()[:, 0].tolist()) == set(np.flatnonzero(there))
    assert found.primal[-1] < 0.7 * found.primal[0]


def test_purification_removes_dead_filters_but_not_past_the_goal(tiny_task):
    bench = Workbench(tiny_task.model, tiny_task.calibration, 0.05)
    with torch.no_grad():
        bench.dense.fc1.weight[3] = 0
    everything = removal.everything(bench.groups)
    pure = autocompress.purify(bench, bench.dense, everything, bench.target, 0.05)
    assert np.flatnonzero(~pure[3]).tolist() == [3]
    assert autocompress.purify(bench, bench.dense, everything, bench.target.at(0.01), 0.05)[3].all()


# AdaPrune


@pytest.mark.parametrize("grouping", ["auto", "input", "output"])
def test_adaprune_keeps_equal_counts_in_every_block(grouping, tiny_task):
    _, info = prune(
        "adaprune", tiny_task.model, tiny_task.calibration, 0.4, block_size=4, grouping=grouping, return_info=True
    )
    units = {"conv1": 8, "conv2": 6, "conv4": 10, "fc1": 12}
    for (name, size), blocks in zip(units.items(), info.details["blocks"], strict=True):
        kept = np.ones(size, dtype=bool)
        kept[info.plan.get(name, [])] = False
        assert len(set(kept.reshape(blocks, -1).sum(axis=1))) == 1
        assert size % blocks == 0
        assert size // blocks <= 4
    assert info.details["blocks"] == [2, 2, 5, 3]


def test_adaprune_follows_the_fetch(tiny_task):
    bench = Workbench(tiny_task.model, tiny_task.calibration)
    chosen = [adaprune.fetch_grouping(bench, group, 8) for group in bench.groups]
    assert chosen == ["input", "output", "input", "input"]
    along = {way: adaprune.fetched_weight(bench, bench.groups[1], way) for way in ("input", "output")}
    torch.testing.assert_close(along["input"], bench.dense.conv3.weight.detach().double().abs().sum(dim=(0, 2, 3)))
    torch.testing.assert_close(along["output"], bench.dense.conv2.weight.detach().double().abs().sum(dim=(1, 2, 3)))


def test_adaptive_activation_removes_the_silent_channels(tiny_task):
    model = copy.deepcopy(tiny_task.model)
    with torch.no_grad():
        model.bn4.weight[[2, 7]] = 0
        model.bn4.bias[[2, 7]] = -1
    _, info = prune(
        "adaprune", model, tiny_task.calibration, 0.2, ratio_of="flops", variant="activation", return_info=True
    )
    assert {2, 7} <= set(info.plan["conv4"])
    assert info.flops_reduction == pytest.approx(0.2, abs=0.02)


# GNN-Pruning


class Bandit:
    """Stands in for the scorer: the first layer should keep everything, the others should not."""

    def accuracy(self, selection):
        shares = [mask.mean() for mask in selection]
        return shares[0] - np.mean(shares[1:])


def test_gnn_policy_improves_its_reward(bench):
    torch.manual_seed(0)
    game = gnn._Game(bench)
    game._scorer = Bandit()
    agent = gnn.Agent(game.graph, len(bench.groups), 3e-3)
    for _ in range(25):
        agent.update([game.play(agent) for _ in range(10)])
    first, last = np.array(game.rewards[:50]), np.array(game.rewards[-50:])
    assert last.mean() > first.mean() + 3 * first.std() / np.sqrt(50)


def test_gnn_graph_knows_blocks_and_what_is_left(bench):
    graph = gnn.network_graph(bench.dense, bench.groups, bench.cost)
    torch.testing.assert_close(graph.membership.sum(dim=1), torch.ones(len(graph.membership)))
    assert graph.flops.sum() == pytest.approx(1.0)
    full, half = graph.features(np.ones(4)), graph.features(np.array([1.0, 0.5, 1.0, 1.0]))
    changed = (full[:, -3:-1] != half[:, -3:-1]).any(dim=1)
    assert int(changed.sum()) == 3  # conv2 and its norm make fewer channels, conv3 reads fewer


def test_gnn_returns_its_best_plan(tiny_task):
    network, info = prune("gnn", tiny_task.model, tiny_task.calibration, ratio_of="flops", return_info=True)
    assert 100 * evaluate_model(network, tiny_task.calibration).accuracy - 100 == pytest.approx(
        max(info.details["rewards"])
    )
    assert isinstance(network, nn.Module)


# AMC

READ_BY = {"conv1": ["conv2", "conv4"], "conv2": ["conv3"], "conv4": ["fc1"], "fc1": ["fc2"]}
UNITS = {"conv1": 8, "conv2": 6, "conv4": 10, "fc1": 12}


def test_amcs_state_is_its_eleven_numbers(tiny_task):
    bench = Workbench(tiny_task.model, tiny_task.calibration, 0.5, ratio_of="flops")
    flops = 2 * np.array([1 * 8 * 9 * 64, 8 * 6 * 9 * 64, 8 * 10 * 9 * 16, 160 * 12])
    table = np.array(
        [
            [0, 8, 1, 8, 8, 1, 3, flops[0]],
            [1, 6, 8, 8, 8, 1, 3, flops[1]],
            [2, 10, 8, 8, 8, 2, 3, flops[2]],
            [3, 12, 160, 1, 1, 1, 1, flops[3]],
        ]
    )
    fixed = (table - table.mean(axis=0)) / table.std(axis=0)
    env = amc.AMCEnv(bench)
    states = [env.reset()[0]]
    for action in (0.5, -0.2, 0.9, 0.0):
        states.append(env.step(np.array([action], dtype=np.float32))[0])
    np.testing.assert_allclose([state[:8] for state in states[:4]], fixed, rtol=1e-5)
    np.testing.assert_array_equal(states[4][:8], states[3][:8])
    ratios = 1 - np.array(env.finished[0][1]) / bench.target.limits.units
    keeps = 1 - ratios
    # conv1's stream goes through conv2 and back; conv3 reads it, the linear layer reads conv3.
    inputs = np.array([1.0, keeps[0], keeps[0], keeps[2]])
    saved = flops * (1 - inputs * keeps)
    for layer, state in enumerate(states[:4]):
        last = ratios[layer - 1] if layer else 0.0
        expected = [saved[:layer].sum() / flops.sum(), flops[layer + 1 :].sum() / flops.sum(), last]
        np.testing.assert_allclose(state[8:], expected, rtol=1e-5)


def test_amc_reaches_the_target_in_every_episode_and_is_paid_its_accuracy(tiny_task):
    bench = Workbench(tiny_task.model, tiny_task.calibration, 0.6, ratio_of="flops")
    env = amc.AMCEnv(bench)
    rng = np.random.default_rng(0)
    for _ in range(5):
        state, _ = env.reset()
        rewards = []
        for _ in bench.groups:
            assert env.observation_space.contains(state)
            state, reward, done, _, _ = env.step(rng.uniform(-1, 1, 1).astype(np.float32))
            rewards.append(reward)
        assert done
        assert rewards[:-1] == [0, 0, 0]
        paid, kept = env.finished[-1]
        assert paid == rewards[-1]
        assert bench.target.reached(np.array(kept))
        largest = 1 - np.array(kept) / bench.target.limits.units
        assert (largest <= 0.8 + 1e-9).all()


def test_amc_removes_what_is_read_least_returns_what_it_scored_and_pays_every_step(tiny_task, monkeypatch):
    from stable_baselines3 import DDPG

    trained = []
    original = DDPG.train
    monkeypatch.setattr(DDPG, "train", lambda self, *a, **k: trained.append(self) or original(self, *a, **k))
    network, info = prune("amc", tiny_task.model, tiny_task.calibration, ratio_of="flops", return_info=True)
    buffer = trained[-1].replay_buffer
    rewards = buffer.rewards[: buffer.pos, 0].reshape(-1, 4)
    np.testing.assert_allclose(rewards, rewards[:, -1:].repeat(4, axis=1))
    np.testing.assert_allclose(rewards[:, 0], info.details["rewards"])
    modules = dict(tiny_task.model.named_modules())
    weights = {name: modules[name].weight.detach().abs() for readers in READ_BY.values() for name in readers}
    for name, removed in info.plan.items():
        norms = sum(weights[reader].transpose(0, 1).reshape(UNITS[name], -1).sum(dim=1) for reader in READ_BY[name])
        assert sorted(norms.argsort()[: len(removed)].tolist()) == removed
    # What it returns is what its search scored: the refitted network, not the dense one's weights.
    assert 100 * evaluate_model(network, tiny_task.calibration).accuracy == pytest.approx(
        100 * max(info.details["rewards"])
    )


def test_amcs_actor_and_critic_learn_at_rates_of_their_own(tiny_task, monkeypatch):
    from torch.optim import Adam

    stepped = {}
    step = Adam.step

    def watched(optimizer, *arguments, **keywords):
        stepped.setdefault(id(optimizer), []).append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments, **keywords)

    monkeypatch.setattr(Adam, "step", watched)
    prune("amc", tiny_task.model, tiny_task.calibration, ratio_of="flops", actor_lr=1e-4, critic_lr=1e-3)
    rates = [set(found) for found in stepped.values()]
    assert sorted(rates, key=min) == [{1e-4}, {1e-3}]
