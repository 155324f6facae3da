"""The manual's code runs, and the PPO of one screen learns."""

import re
import runpy
from pathlib import Path

import gymnasium as gym
import numpy as np

DOCS = Path(__file__).parents[2] / "docs"


def test_every_code_block_of_the_manual_runs():
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "environment.md").read_text(), re.DOTALL)
    assert len(blocks) >= 6
    names: dict = {}
    for block in blocks:
        exec(compile(block, "environment.md", "exec"), names)


def test_the_example_agent_learns():
    train = runpy.run_path(str(DOCS / "examples" / "ppo.py"))["train"]
    envs = gym.make_vec("HOBSPrune-v0", num_envs=64, fidelity="predicted", start="uniform")
    rewards = train(envs, iterations=40)
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5])
