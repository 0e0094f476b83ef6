"""Tables as CSV, Markdown and LaTeX. Text that came from outside is escaped for the format it enters."""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby

import pandas as pd

from benchmark.report.tables import Entry, Line, Table

NOTHING = "Nothing has run yet."

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "`": "'", "’": "'", "[": "{[}", "]": "{]}",
    "*": "{*}", "±": r"$\pm$", "×": r"$\times$", "–": "--", "—": "---", "−": "$-$", "…": r"\ldots{}",
}  # fmt: skip


def latex(text: str) -> str:
    """Return text for pdfLaTeX with T1 fonts: special characters are escaped, and those without a glyph become `?`."""

    def one(character: str) -> str:
        if character in _LATEX:
            return _LATEX[character]
        if unicodedata.category(character).startswith("C") or character.isspace():
            return " "
        return character if character.isascii() or (character.isalpha() and ord(character) < 0x180) else "?"

    return "".join(map(one, text))


def markdown(text: str) -> str:
    """Return text for a cell of a Markdown table: no markup, no HTML, one line."""
    text = re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", text)


def _aside(entry: Entry) -> tuple[str, str]:
    """The published value in words of the plain formats: its text and its raised mark."""
    if not entry.published:
        return "", ""
    value = f"{entry.published.accuracy:.1f}"
    if entry.published.evidence == "unverified":
        return f"({value}?)", ""
    return f"[{value}]", "s" if entry.published.evidence == "secondary" else ""


def to_csv(tables: list[Table]) -> str:
    """Return all blocks below each other, by registry names; a published value has columns of its own."""
    lines = [_record(table, line) for table in tables for line in table.lines]
    if not lines:
        return "schedule,protocol,method\n"
    leading = [name for table in tables for name in (*table.block, *table.lines[0].ids)]
    values = [name for table in tables for column in table.columns for name in _names(column.id)]
    found = [name for line in lines for name in line]
    order = [name for name in dict.fromkeys((*leading, *values, *found)) if name in set(found)]
    return pd.DataFrame(lines, columns=order).to_csv(index=False)


def _names(column: str) -> tuple[str, str, str]:
    return column, f"{column} published", f"{column} evidence"


def _record(table: Table, line: Line) -> dict[str, str]:
    record, place = table.block | line.ids, 0
    for entry in line.entries:
        name = entry.id or table.columns[place].id
        place += entry.span
        texts = ["; ".join((entry.text if entry.plain is None else entry.plain, *entry.remarks))]
        if entry.published:
            texts += [f"{entry.published.accuracy:g}", entry.published.evidence]
        record |= dict(zip(_names(name), texts, strict=False))
    if line.marks:
        record["disclosure"] = " ".join(table.numbered[mark - 1] for mark in line.marks)
    return record


def to_markdown(tables: list[Table]) -> str:
    return "\n".join(_markdown_table(table) for table in tables) if tables else f"{NOTHING}\n"


def _markdown_table(table: Table) -> str:
    header = [*table.stubs, *(column.name for column in table.columns)]
    aligned = [":--"] * len(table.stubs) + ["--:"] * len(table.columns)
    lines = [f"**{markdown(table.caption)}**", "", _pipes([markdown(h) for h in header]), _pipes(aligned)]
    for line in table.lines:
        marks = "".join(f"<sup>{mark}</sup>" for mark in line.marks)
        cells = [markdown(stub) for stub in line.stubs]
        cells[-1] += marks
        for entry in line.entries:
            cells += [_markdown_entry(entry)] + [""] * (entry.span - 1)
        lines.append(_pipes(cells))
    lines += [""] + [f"<sup>{n}</sup> {markdown(note)}  " for n, note in enumerate(table.numbered, 1)]
    lines += [f"{markdown(note)}  " for note in table.notes]
    return "\n".join(lines) + "\n"


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_entry(entry: Entry) -> str:
    text = markdown(entry.text)
    parts = [f"**{text}**" if entry.best else text]
    parts += [f"({markdown(remark)})" for remark in entry.remarks]
    aside, mark = _aside(entry)
    if aside:
        parts.append(markdown(aside[:-1]) + (f" <sup>{mark}</sup>" if mark else "") + markdown(aside[-1]))
    return " ".join(parts)


def to_latex(tables: list[Table]) -> str:
    head = "% \\input this file; it needs \\usepackage{booktabs,graphicx} and \\usepackage[T1]{fontenc}.\n"
    return head + ("\n".join(_latex_table(table) for table in tables) if tables else f"% {NOTHING}\n")


def _latex_table(table: Table) -> str:
    width = len(table.columns)
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{latex(table.caption)}}}",
        rf"\label{{tab:{table.slug}}}",
    ]
    # Shrunk to the text width only where it is wider.
    lines += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
    lines += [
        rf"\begin{{tabular}}{{{'l' * len(table.stubs)}{'r' * width}}}",
        r"\toprule",
        *_latex_header(table),
        r"\midrule",
    ]
    for line in table.lines:
        lines += [r"\midrule"] * line.rule + [_latex_line(line)]
    lines += [r"\bottomrule", r"\end{tabular}}"]
    numbered = [rf"$^{{{n}}}$ {latex(note)}" for n, note in enumerate(table.numbered, 1)]
    notes = [*numbered, *(latex(note) for note in table.notes)]
    lines += [r"\par\smallskip{\footnotesize\raggedright " + r"\par ".join(notes) + r"\par}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _latex_header(table: Table) -> list[str]:
    labels = " & ".join(latex(text) for text in (*table.stubs, *(column.label for column in table.columns)))
    if not any(column.group for column in table.columns):
        return [labels + r" \\"]
    groups, rules, place = [""] * len(table.stubs), [], len(table.stubs) + 1
    for group, members in groupby(table.columns, key=lambda column: column.group):
        span = len(list(members))
        groups.append(rf"\multicolumn{{{span}}}{{c}}{{{latex(group)}}}")
        if group:
            rules.append(rf"\cmidrule(lr){{{place}-{place + span - 1}}}")
        place += span
    return [" & ".join(groups) + r" \\", " ".join(rules), labels + r" \\"]


def _latex_line(line: Line) -> str:
    cells = [latex(stub) for stub in line.stubs]
    cells[-1] += "".join(f"$^{{{mark}}}$" for mark in line.marks)
    for entry in line.entries:
        text = _latex_entry(entry)
        cells.append(rf"\multicolumn{{{entry.span}}}{{c}}{{{text}}}" if entry.span > 1 else text)
    return " & ".join(cells) + r" \\"


def _latex_entry(entry: Entry) -> str:
    text = latex(entry.text)
    parts = [rf"\textbf{{{text}}}" if entry.best else text]
    parts += [f"({latex(remark)})" for remark in entry.remarks]
    aside, mark = _aside(entry)
    if aside:
        parts.append(latex(aside[:-1]) + (f"$^{{{mark}}}$" if mark else "") + latex(aside[-1]))
    return r"~".join(parts) if aside else " ".join(parts)
