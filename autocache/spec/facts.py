"""What every part of a model spec is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1)]
Names = Annotated[list[Name], Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Location = tuple[str | int, ...]
"""The keys and indices that lead to a part of a spec."""


class Facts(BaseModel):
    """Base of every part of a spec: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
