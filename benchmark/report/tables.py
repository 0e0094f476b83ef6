"""The tables of the report as plain data, and the words that all tables share.

A `Table` knows what stands where and why; `render.py` and the page's template decide how it looks in each format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmark.report.observations import Names
from benchmark.report.published import Published
from benchmark.report.rows import Row
from benchmark.report.style import schedule_rank, slug

MISSING = "–"


@dataclass(frozen=True)
class Entry:
    """One place of a table. `remarks` qualify the value and are printed with it wherever it stands."""

    text: str = MISSING
    plain: str | None = None
    """The value for CSV where it differs from the text, such as a number without separators."""
    kind: Literal["value", "missing", "failed"] = "value"
    best: bool = False
    published: Published | None = None
    difference: float | None = None
    remarks: tuple[str, ...] = ()
    tip: str = ""
    span: int = 1
    id: str = ""
    """The entry's column in CSV, if that is not the column it stands in."""


@dataclass(frozen=True)
class Column:
    """A column. `id` names it in CSV, by registry names; group and label are for people."""

    group: str
    label: str
    id: str

    @property
    def name(self) -> str:
        return f"{self.group} {self.label}".strip()


@dataclass(frozen=True)
class Line:
    """A row of a table: its stubs (leading columns), its entries, and the numbered notes that its last stub carries.

    `ids` are the stubs by registry names, for CSV; `method` and `variant` are always among them. `rule`: whether a line
    is drawn above.
    """

    stubs: tuple[str, ...]
    ids: dict[str, str]
    entries: tuple[Entry, ...]
    marks: tuple[int, ...] = ()
    rule: bool = False
    tip: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.ids["method"], self.ids["variant"]


@dataclass(frozen=True)
class Table:
    """A table. `block` says which runs it shows. `numbered` notes belong to marks on lines, `notes` to all of it."""

    kind: str
    block: dict[str, str]
    caption: str
    stubs: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    numbered: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        return slug("-".join((self.kind, *self.block.values())), 200)

    @property
    def title(self) -> str:
        words = (f"{name} {value or 'not recorded'}" for name, value in self.block.items())
        return ", ".join(words).capitalize()


class Notes:
    """Numbers the sentences that must stand with a method's rows."""

    def __init__(self, titles: Names) -> None:
        self.titles = titles
        self.sentences: list[str] = []

    def mark(self, method: str) -> tuple[int, ...]:
        sentence = self.titles.disclosure(method)
        if not sentence:
            return ()
        text = f"{self.titles.method(method)}: {sentence}"
        if text not in self.sentences:
            self.sentences.append(text)
        return (self.sentences.index(text) + 1,)


def schedule_text(schedule: str) -> str:
    if schedule == "paper":
        return "schedule paper (the published numbers of iterations)"
    return f"schedule {schedule}: not comparable with published numbers"


def block_text(schedule: str, protocol: str) -> str:
    """Return what every caption says of its runs, so that a quick number is never mistaken for a published one."""
    return f"protocol {protocol or 'not recorded'}; {schedule_text(schedule)}."


def blocks(rows: list[Row], *fields: str) -> list[tuple[tuple[str, ...], list[Row]]]:
    """Return rows by (schedule, protocol, ...), the longest schedule and the unified protocol first."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(getattr(row, name) for name in fields), []).append(row)

    def order(item: tuple[tuple[str, ...], list[Row]]) -> tuple:
        key, _ = item
        return schedule_rank(key[0]), *((part not in ("unified", "convnet"), part) for part in key[1:])

    return sorted(found.items(), key=order)


def value_text(row: Row) -> str:
    return f"{row.accuracy:.1f}" + (f" ± {row.ci95:.1f}" if row.ci95 is not None else "")


def plural(word: str, number: float) -> str:
    return word if number == 1 else word + "s"


def count(value: float) -> str:
    """`30,720`, `22.5`."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def number_entry(value: float | None, form: Callable[[float], str] = count) -> Entry:
    """Return a number as text and, unrounded, for CSV; an empty place if there is none."""
    return Entry(plain="", kind="missing") if value is None else Entry(form(value), plain=f"{value:.10g}")


def three_digits(value: float) -> str:
    """Return a positive number with about three significant digits: `7,844`, `12.5`, `0.42`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
