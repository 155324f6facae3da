"""Contents that files may have: types and ranges of results, measured plans and decided budgets.

Readers get plain dictionaries back. The models are the door: an error names the file, the key and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from benchmarks.common.signed import FileError, read_signed

Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Units = Annotated[int, Field(ge=1, le=2**31)]
Word = Annotated[str, StringConstraints(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Exact(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class NetworkNumbers(_Model):
    """Measurements of one network of a run."""

    accuracy: Fraction
    flops: Positive
    parameters: Positive
    latency_ms: Positive
    throughput_imgs_per_sec: Positive


class SearchNumbers(_Model):
    """Search by which a run's plan was found."""

    measured_evaluations: Count
    reward_accuracy: Fraction
    reward_soft_accuracy: Fraction


class RunResult(_Model):
    """``result.json`` of a finished run; later versions may say more."""

    dense: NetworkNumbers
    one_shot: NetworkNumbers
    reconstructed: NetworkNumbers | None = None
    final: NetworkNumbers
    flops_reduction: Annotated[float, Field(ge=-1.0, lt=1.0, allow_inf_nan=False)]
    target_flops_reduction: Fraction
    budgets: dict[str, Fraction]
    search: SearchNumbers
    experiment: str
    task: Word
    method: Word
    seed: Count
    device: Word
    num_threads: Annotated[int, Field(ge=1)]
    versions: dict[str, str]
    seconds: dict[str, NotNegative]


class MeasuredPlan(_Exact):
    """One measured plan: kept units of every layer, and its scores on the reward split."""

    kept: Annotated[list[Units], Field(min_length=1)]
    accuracy: Fraction
    soft_accuracy: Fraction
    loss: NotNegative


class StoredPlan(MeasuredPlan):
    """A measured plan with the wall time of measuring it (s)."""

    seconds: NotNegative


class StoredBudgets(_Exact):
    """Decision of a search or a published method."""

    kept: Annotated[list[Units], Field(min_length=1)]
    plan: dict[str, list[Count]]
    accuracy: Fraction
    soft_accuracy: Fraction
    flops_reduction: Annotated[float, Field(ge=-1.0, lt=1.0, allow_inf_nan=False)]
    measured_evaluations: Count
    history: list[dict[str, Any]]


RESULT = TypeAdapter(RunResult)
MEASURED = TypeAdapter(list[MeasuredPlan])
STORED_PLAN = TypeAdapter(StoredPlan)
BUDGETS = TypeAdapter(StoredBudgets)
FINE_TUNING = TypeAdapter(dict[str, Any])
SECONDS = TypeAdapter(dict[str, NotNegative])
VERSIONS = TypeAdapter(dict[str, str])
FRACTION = TypeAdapter(Fraction)


def check(content: Any, model: TypeAdapter[Any], path: Path, remedy: str) -> Any:
    """The content itself, if the model allows it.

    Args:
        content: what JSON gave.
        model: what is allowed.
        path: names the file in messages.
        remedy: what to do about it, for the message.

    Raises:
        FileError: a value missing, of another kind or out of its range; up to three are named.
    """
    try:
        model.validate_python(content)
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors()[:3]]
        more = f" and {error.error_count() - 3} more" if error.error_count() > 3 else ""
        raise FileError(
            f"{path} was written by another version of the project, or damaged: {'; '.join(problems)}{more}; {remedy}"
        ) from None
    return content


def read_result(path: Path, remedy: str = "run it again with --overwrite") -> dict[str, Any]:
    """A finished run's ``result.json``, verified and checked.

    Raises:
        OSError: it cannot be read.
        FileError: it was changed or damaged, or says what no run can have measured.
    """
    result: dict[str, Any] = check(read_signed(path, remedy), RESULT, path, remedy)
    return result


def _problem(detail: Mapping[str, Any]) -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).lstrip(".")
    if detail["type"] == "missing":
        return f"{key!r} is missing"
    shown = repr(detail["input"])
    given = shown if len(shown) <= 60 else f"{shown[:57]}..."
    what = detail["msg"].replace("Input should be", "must be")
    return f"{key or 'the content'!r} {what[0].lower()}{what[1:]}, got {given}"
