"""Random changes of images that keep their label, on whole batches of tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import affine_grid, grid_sample


@dataclass(frozen=True)
class Augmentation:
    """Random shifts, rotations and mirror images, drawn anew for every image.

    Attributes:
        max_shift: Largest shift along either axis, in pixels.
        max_rotation: Largest rotation either way, in degrees.
        flip: Whether half of the images are mirrored left to right.
    """

    max_shift: float = 0.0
    max_rotation: float = 0.0
    flip: bool = False

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augment a batch; what moves in from outside repeats the border.

        Args:
            images: ``[N, C, H, W]``.
            generator: CPU generator the changes are drawn from.

        Returns:
            ``[N, C, H, W]`` on the same device.
        """
        if self == Augmentation():
            return images
        grid = affine_grid(self._draw(images, generator), list(images.shape), align_corners=False)
        return grid_sample(images, grid, padding_mode="border", align_corners=False)

    def _draw(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Affine maps from output to input coordinates, ``[N, 2, 3]``; both run from -1 to 1 over the image."""
        count, _, height, width = images.shape
        angle, shift_x, shift_y = 2 * torch.rand(3, count, generator=generator) - 1
        angle = angle * math.radians(self.max_rotation)
        mirror = torch.ones(count)
        if self.flip:
            mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
        x_row = torch.stack([mirror * angle.cos(), -angle.sin(), shift_x * self.max_shift * 2 / width], dim=1)
        y_row = torch.stack([mirror * angle.sin(), angle.cos(), shift_y * self.max_shift * 2 / height], dim=1)
        return torch.stack([x_row, y_row], dim=1).to(images)
