"""Every method with options that finish in about a second on a tiny network."""

import baselines

FAST = {
    "unpruned": {},
    "random-channels": {},
    "magnitude": {},
    "dep-graph": {"steps": 5},
    "autocompress": {"rounds": 1, "admm_iterations": 1},
    "hrank": {"num_samples": 8},
    "taylor": {"removals": 4, "frequency": 2},
    "adaprune": {"block_size": 2},
    "gnn": {"episodes": 4, "episodes_per_update": 2},
    "amc": {"episodes": 4, "warmup_episodes": 2},
}


def prune(name, model, data, ratio=0.5, **options):
    """Run a method by name, quickly."""
    return baselines.get(name).prune(model, data, ratio, **{**FAST[name], "progress": False, **options})
