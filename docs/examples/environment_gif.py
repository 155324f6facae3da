"""Draws docs/images/environment.gif: the plans that a search measures on the digits task, a frame each."""

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
from PIL import Image

import prune_gym  # noqa: F401  (registers HOBSPrune-v0)
from agents import GPSearch

OUT = Path(__file__).parents[1] / "images" / "environment.gif"


def frames(plans: int, fidelity: str = "measured") -> list[Image.Image]:
    """One picture of the start plan, and one of every plan that is measured after it."""
    env = gym.make(
        "HOBSPrune-v0",
        task="digits-resnet20",
        target_flops_reduction=0.9,
        constraint="hard",
        fidelity=fidelity,
        render_mode="rgb_array",
    )
    drawn = []

    def draw(record: dict[str, Any]) -> bool:
        drawn.append(Image.fromarray(env.render()))
        return True

    GPSearch(seed=0).learn(env, plans, callback=draw)
    return drawn


def save(drawn: list[Image.Image], path: Path, size: tuple[int, int] = (600, 360), milliseconds: int = 600) -> None:
    """Write frames as a GIF of few colours that repeats."""
    small = [frame.resize(size, Image.Resampling.LANCZOS).quantize(32) for frame in drawn]
    path.parent.mkdir(parents=True, exist_ok=True)
    small[0].save(path, save_all=True, append_images=small[1:], duration=milliseconds, loop=0, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="file to write (default: %(default)s)")
    parser.add_argument("--plans", type=int, default=14, help="plans to measure (default: %(default)s)")
    options = parser.parse_args()
    save(frames(options.plans), options.out)
