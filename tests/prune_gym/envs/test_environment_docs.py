"""The manual's code runs, and the PPO of one screen learns."""

import runpy

import gymnasium as gym
import numpy as np

from tests.pages import DOCS, code_blocks, run_page

PAGE = DOCS / "environment.md"


def test_every_code_block_of_the_manual_runs():
    assert len(code_blocks(PAGE)) >= 6
    run_page(PAGE)


def test_the_example_agent_learns():
    train = runpy.run_path(str(DOCS / "examples" / "ppo.py"))["train"]
    envs = gym.make_vec("HOBSPrune-v0", num_envs=64, fidelity="predicted", start="uniform")
    rewards = train(envs, iterations=40)
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5])
