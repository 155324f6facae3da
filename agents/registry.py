"""Every agent by name, made for an environment and a seed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from agents.interface.learner import Learner
from agents.rspar.agent import RSPARAgent
from agents.sb3 import DEFAULTS, PRESETS, make_agent
from agents.search.annealing import AnnealingSearch
from agents.search.base import RandomSearch
from agents.search.evolution import CEMSearch, CMAESSearch
from agents.search.gaussian_process import GPSearch, ScaledGPSearch
from agents.search.level_switch import LevelSwitchSearch
from agents.search.start_plans import KnapsackSearch, UniformSearch
from hessian.support.names import unknown


@dataclass(frozen=True)
class AgentKind:
    """A sort of agent.

    Attributes:
        build: makes one from an environment, a seed and options.
        options: what it is made from, a callable whose keyword parameters the options are; None: anything goes.
        serves_targets: whether one run learns for several targets.
    """

    build: Callable[[gym.Env, int, Mapping[str, Any]], Learner]
    options: Callable[..., Any] | None
    serves_targets: bool = False


def _rspar(env: gym.Env, seed: int, options: Mapping[str, Any]) -> Learner:
    layout = env.unwrapped.layout  # type: ignore[attr-defined]
    return RSPARAgent(layout.num_layers, layout.feature_dim, seed=seed, **options)


def _pretrained(env: gym.Env, seed: int, options: Mapping[str, Any]) -> Learner:
    layout = env.unwrapped.layout  # type: ignore[attr-defined]
    return RSPARAgent.pretrained(layout.num_layers, layout.feature_dim, seed=seed, **options)


def _seeded(search: Callable[..., Learner]) -> AgentKind:
    return AgentKind(lambda env, seed, options: search(seed=seed, **options), search)


def _unseeded(search: Callable[..., Learner]) -> AgentKind:
    return AgentKind(lambda env, seed, options: search(**options), search)


def _sb3(name: str) -> AgentKind:
    return AgentKind(lambda env, seed, options: make_agent(name, env, seed, **options), None, serves_targets=True)


AGENTS: dict[str, AgentKind] = {
    "rspar": AgentKind(_rspar, RSPARAgent, serves_targets=True),
    "rspar_pretrained": AgentKind(_pretrained, RSPARAgent, serves_targets=True),
    "uniform": _unseeded(UniformSearch),
    "knapsack": _unseeded(KnapsackSearch),
    "random": _seeded(RandomSearch),
    "annealing": _seeded(AnnealingSearch),
    "cem": _seeded(CEMSearch),
    "cmaes": _seeded(CMAESSearch),
    "gp": _seeded(GPSearch),
    "gp_scaled": _seeded(ScaledGPSearch),
    "level_switch": _seeded(LevelSwitchSearch),
    **{name: _sb3(name) for name in (*DEFAULTS, *PRESETS) if name != "amc"},
}
"""Agents of ``HOBSPrune-v0`` by name (the preset ``amc`` is made for one layer a step)."""


def create(name: str, env: gym.Env, seed: int = 0, **options: Any) -> Learner:
    """Make an agent.

    Args:
        name: a key of :data:`AGENTS`.
        env: what it will learn on.
        seed: of everything random in it.
        **options: arguments of its constructor.

    Raises:
        ValueError: unknown name, or an option it does not have.
    """
    check_options(name, options)
    return AGENTS[name].build(env, seed, options)


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Make sure that an agent and its options exist, without making one.

    Raises:
        ValueError: unknown name, or an option it does not have.
    """
    if name not in AGENTS:
        raise ValueError(unknown("agent", name, AGENTS))
    constructor = AGENTS[name].options
    if constructor is None:
        return
    given_by_us = ("self", "seed", "num_layers", "layer_feature_dim")
    known = [option for option in inspect.signature(constructor).parameters if option not in given_by_us]
    for option in options:
        if option not in known:
            raise ValueError(unknown(f"option of {name}", option, known))
