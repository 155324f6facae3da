"""Settings of a reconstruction, and its findings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Loss: TypeAlias = Literal["kl", "mse"]
"""Loss by which an output is matched: ``"kl"`` for logits, ``"mse"`` for values."""

LOSSES = ("kl", "mse")


@dataclass(frozen=True)
class Setting:
    """One way to take the steps; several are raced.

    Attributes:
        lr: peak learning rate of Adam.
        batch_statistics: whether batch norms use, and go on averaging, the statistics of every batch; False leaves
            them as they are.
    """

    lr: float = 4e-3
    batch_statistics: bool = True

    def __str__(self) -> str:
        return f"learning rate {self.lr:g}, {'batch' if self.batch_statistics else 'frozen'} statistics"


CANDIDATES = (Setting(4e-3, True), Setting(2e-3, True), Setting(3e-4, False))
"""Settings raced by default: deep cuts like large steps and statistics of their own, shallow ones small steps."""


@dataclass(frozen=True)
class Reconstruction:
    """Settings by which a pruned network is brought closer to the dense one.

    Attributes:
        steps: gradient steps of the setting that wins the race; 0 leaves the network as it is.
        batch_size: images a step, at least 2.
        candidates: settings that are raced; one needs no race.
        race: share of ``steps`` that racing them may take, in (0, 1).
        loss: how outputs are matched: ``"kl"`` or ``"mse"`` for all of them, or one for each floating-point output;
            ``"auto"`` takes every output of two or more channels ``[N, C, ...]`` for logits and the rest for values.
            Say ``"mse"`` for regression.
        temperature: T of the KL divergence, positive.
        warmup: share of the steps spent going up to the peak learning rate, in [0, 1); half a cosine down follows.
        held_out: share of the images that nothing is trained on, in (0, 1): they decide what is kept.
        seconds: wall time to stay within; steps are cut to what is expected to fit. The result then depends on the
            machine. None: all steps, however long they take.
        mixed_precision: whether forward passes compute in 16 bits where the device supports it. It pays on GPUs with
            large networks; a step of ResNet-20 and VGG-11 at 28x28 took 17 % and 11 % less time with it on a CPU that
            has bfloat16 instructions, too little to make it the default.

    Raises:
        ValueError: one is out of range.
    """

    steps: int = 1000
    batch_size: int = 32
    candidates: tuple[Setting, ...] = CANDIDATES
    race: float = 0.45
    loss: Literal["auto"] | Loss | tuple[Loss, ...] = "auto"
    temperature: float = 4.0
    warmup: float = 0.1
    held_out: float = 0.1
    seconds: float | None = None
    mixed_precision: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 2:
            raise ValueError(
                f"steps is at least 0 and batch_size at least 2; got steps={self.steps}, batch_size={self.batch_size}"
            )
        if not self.candidates or any(not 0 < candidate.lr < math.inf for candidate in self.candidates):
            raise ValueError(
                f"candidates is at least one setting with a positive learning rate; got {self.candidates!r}"
            )
        if not (self.temperature > 0 and 0 <= self.warmup < 1 and 0 < self.held_out < 1 and 0 < self.race < 1):
            raise ValueError(
                "temperature is positive, warmup in [0, 1), held_out and race in (0, 1); got "
                f"temperature={self.temperature}, warmup={self.warmup}, held_out={self.held_out}, race={self.race}"
            )
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds is positive, or None for no limit; got {self.seconds}")
        named: Sequence[str] = (self.loss,) if isinstance(self.loss, str) else self.loss
        if self.loss != "auto" and not (named and all(name in LOSSES for name in named)):
            raise ValueError(f"loss is 'auto', 'kl', 'mse', or one of the last two for every output; got {self.loss!r}")


@dataclass(frozen=True)
class Trial:
    """One training of the race, or the last one.

    Attributes:
        setting: how steps were taken.
        steps: how many.
        loss: on the held-out images afterwards; infinite where the training broke down.
    """

    setting: Setting
    steps: int
    loss: float


@dataclass(frozen=True)
class Reconstructed:
    """Outcome of a reconstruction; losses are means over the held-out images.

    Attributes:
        before: loss of the network as it was given.
        after: loss of the network as it is now, never more than ``before``.
        chosen: the training whose network was kept; None where none was better than the network as it was.
        trials: all trainings, in order.
        seconds: wall time.
    """

    before: float
    after: float
    chosen: Trial | None
    trials: tuple[Trial, ...]
    seconds: float
