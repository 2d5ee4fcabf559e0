"""How an answer is wanted: what it may be made of, what the model remembers, how its tokens are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from seed_dist.config import Float, Int
from seed_dist.errors import ConfigError

Wish = Literal["either", "words", "picture"]
SEEDS = 2**31  # of answers and paintings: 0 to this minus 1
_SHOWN = 60  # characters of a wrong value


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Manner:
    """`words` and `picture` hold the model to one kind, `either` leaves the choice to it. `remember`: how many of the
    latest turns it is shown. Temperature 0 takes the most likely token, otherwise `seed` and the number of the turn
    decide what is drawn.
    """

    reply: Wish = "either"
    remember: Annotated[Int, Field(ge=0, le=1000)] = 0
    temperature: Annotated[Float, Field(ge=0, le=5, allow_inf_nan=False)] = 0.0
    top_p: Annotated[Float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[Int, Field(ge=0, lt=SEEDS)] = 0


def manner_of(values: Mapping[str, Any]) -> Manner:
    """ConfigError names every wrong value and what is allowed."""
    return validated(TypeAdapter(Manner), values)


def validated(adapter: TypeAdapter[Any], values: object) -> Any:
    """What pydantic makes of values from outside; its complaints as one ConfigError."""
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        raise ConfigError([_described(detail) for detail in error.errors()]) from None


def _described(detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"]) or "the request"
    shown = repr(detail["input"])
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    return f"{name} is {shown}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
