"""Descriptions of the bench's networks, in words and single numbers, checked when they are read."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

SPLITS = ("train", "validation", "test")
"""Splits of the networks."""

_NAME = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")


class Description(BaseModel):
    """A network's entry in the file's metadata.

    Attributes:
        name: lower case, for example ``"plain-07"``.
        kind: what it is built of, for example ``"residual"``.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        held_out_kind: whether its whole kind is in no other split than test.
        seed: that it was drawn and trained with.
        dataset: what it was trained on.
        input_shape: of one image, [C, H, W].
        layer_names: names of the prunable layers, in execution order.
        default_target: FLOPs reduction asked for where no other is.
        recipe: how it was drawn and trained, what JSON can say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    name: str
    kind: Annotated[str, Field(min_length=1, max_length=40)]
    split: Literal["train", "validation", "test"]
    held_out_kind: bool = False
    seed: int
    dataset: Annotated[str, Field(min_length=1, max_length=80)]
    input_shape: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=4)]
    layer_names: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]
    default_target: Annotated[float, Field(gt=0.0, lt=1.0)]
    recipe: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if len(name) > 60 or not _NAME.fullmatch(name):
            raise ValueError(f"a name is lower-case words and numbers joined by hyphens; got {name!r}")
        return name

    @field_validator("layer_names")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("two layers have one name")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> Description:
        if self.held_out_kind and self.split != "test":
            raise ValueError(f"a held-out kind is in test alone; {self.name!r} is in {self.split}")
        return self


def described(text: str, path: str) -> list[Description]:
    """The descriptions of a file's metadata.

    Raises:
        ValueError: the text is no such list; the first thing wrong is named.
    """
    try:
        found = TypeAdapter(list[Description]).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(
            f"{path}: the description of its networks is wrong at {place or 'the top'}: {first['msg']}"
        ) from error
    names = [description.name for description in found]
    if len(set(names)) != len(names):
        raise ValueError(f"{path} describes a network twice")
    return found
