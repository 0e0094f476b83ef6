"""A method's settings: a frozen dataclass, whose fields say what they allow and what a schedule makes of them.

@dataclass(frozen=True)
class DMHyper:
    iterations: Annotated[int, Setting(scaled=True, quick=100)] = 20_000
    lr_img: float = 1.0
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union


class _Unchanged:
    """The value of `Setting.quick` where the quick schedule leaves a field as it is."""

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED = _Unchanged()


@dataclass(frozen=True)
class Setting:
    """What a settings class says of one field, inside its `Annotated[...]`."""

    scaled: bool = False
    """Whether a fractional schedule multiplies the field by its factor; the result is at least 1."""
    quick: Any = UNCHANGED
    """The field's value under the quick schedule."""
    at_least: int = 0
    """The smallest value that makes sense."""


@dataclass(frozen=True)
class Schedule:
    """How long a cell runs, compared with what was published.

    `paper` is the published length, `quick` each method's own short setting, which is meant for small images. Anything
    else is a fraction of the published length.
    """

    name: str
    factor: float
    """Factor on the lengths of condensation and evaluation. Evaluation has a floor (see `Recipe.scaled`), so 0 means
    the floor."""

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Return the schedule of a text. Raises ValueError for anything but `quick`, `paper` or a number in (0, 1]."""
        if text in ("quick", "paper"):
            return cls(text, float(text == "paper"))
        try:
            factor = float(text)
        except ValueError:
            factor = math.nan
        if not 0 < factor <= 1:
            raise ValueError(f"--schedule {text}: use quick, paper or a fraction of the published length such as 0.05")
        return cls("paper" if factor == 1 else f"{factor:g}", factor)

    @property
    def quick(self) -> bool:
        return self.name == "quick"


@cache
def settings_of(hyper: type) -> dict[str, Setting]:
    """Return what a settings class says of every field, by name."""
    hints = typing.get_type_hints(hyper, include_extras=True)
    found = {}
    for field in dataclasses.fields(hyper):
        said = getattr(hints[field.name], "__metadata__", ())
        found[field.name] = next((part for part in said if isinstance(part, Setting)), Setting())
    return found


def shortened(hyper: Any, schedule: Schedule) -> Any:
    """Return the settings under a schedule: the quick values for `quick`, otherwise the scaled fields times its
    factor."""
    kind: Any = type(hyper)
    said = settings_of(kind)
    if schedule.quick:
        changed = {name: setting.quick for name, setting in said.items() if setting.quick is not UNCHANGED}
    else:
        scaled = (name for name, setting in said.items() if setting.scaled)
        changed = {name: max(1, round(getattr(hyper, name) * schedule.factor)) for name in scaled}
    return dataclasses.replace(hyper, **changed)


def check_minima(method: str, hyper: Any) -> None:
    """Raise ValueError for a field below its smallest value."""
    kind: Any = type(hyper)
    for name, setting in settings_of(kind).items():
        if setting.at_least and getattr(hyper, name) < setting.at_least:
            raise ValueError(f"--set {method}.{name}={getattr(hyper, name)}: needs {setting.at_least} or more")


def types_of(hyper: type) -> dict[str, Any]:
    """Return the type of every field by name, without its `Setting`."""
    return typing.get_type_hints(hyper)


def parse_value(setting: str, text: str, kind: Any) -> Any:
    """Return a field's value from its text. Numbers must be finite and not negative, as every setting here is.

    setting: as the user wrote it, for the message. kind: the field's type. Raises ValueError, which says what would do.
    """
    if typing.get_origin(kind) is Literal:
        if text not in typing.get_args(kind):
            raise ValueError(f"--set {setting}: choose from {', '.join(typing.get_args(kind))}")
        return text
    if kind is str:
        return text
    try:
        if typing.get_origin(kind) in (Union, types.UnionType):
            return _optional(text, kind)
        if typing.get_origin(kind) is tuple:
            return tuple(_number(part, typing.get_args(kind)[0]) for part in text.split(","))
        return _number(text, kind)
    except ValueError:
        raise ValueError(f"--set {setting}: needs {_wanted(kind)}") from None


def _optional(text: str, kind: Any) -> Any:
    (inner,) = (part for part in typing.get_args(kind) if part is not type(None))
    return None if text.lower() == "none" else _number(text, inner)


def _number(text: str, kind: Any) -> Any:
    try:
        value = json.loads({"True": "true", "False": "false"}.get(text, text))
    except ValueError:
        raise ValueError(text) from None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or not (kind is bool or (math.isfinite(value) and value >= 0)):
        raise ValueError(text)
    return value


def _wanted(kind: Any) -> str:
    if typing.get_origin(kind) in (Union, types.UnionType):
        return " or ".join("none" if part is type(None) else _wanted(part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "whole numbers, 0 or more, with commas between them"
    wanted = {int: "a whole number, 0 or more", float: "a finite number, 0 or more", bool: "true or false"}
    return wanted.get(kind, str(kind))
