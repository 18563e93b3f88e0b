"""A data card: what a data set is, what was taken out of it, why, and what is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kit.data.curation import PERSON, Curation
from kit.data.rows import Rows

EXAMPLES = 3  # reasons that are shown of each check
CLASSES = 12  # classes that are shown


def data_card(rows: Rows[Any], curation: Curation, *, name: str = "", notes: Sequence[str] = ()) -> str:
    """Return a data card as Markdown.

    Args:
        rows: The rows before curation.
        curation: What was decided about them.
        name: What people call the curated set; the rows' own name by default.
        notes: Sentences for the reader: how scores were made, what is known to be missing.

    Raises:
        DataError: rows that were not decided about.

    Source:
        Pushkarna et al. (2022), "Data Cards", arXiv:2204.01075; Gebru et al. (2021), arXiv:1803.09010.
    """
    kept = curation.kept(rows)
    facts = {
        "source": f"`{rows.name}`" + (f", split {rows.split}" if rows.split else ""),
        "licence": rows.licence or "not named",
        "rows": f"{len(kept):,} of {len(rows):,} stay",
        "left out while reading": f"{rows.skipped:,}" if rows.skipped else "",
        "SHA-256 before": f"`{rows.digest()}`",
        "SHA-256 after": f"`{kept.digest()}`",
    }
    lines = [f"# {name or rows.name}, curated", ""]
    lines += [f"- **{what}:** {said}" for what, said in facts.items() if said]
    lines += [f"- {rows.attribution}"] if rows.attribution else []
    lines += ["", *_decided(curation), "", *_balance(rows, kept)]
    if notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines).rstrip() + "\n"


def _decided(curation: Curation) -> list[str]:
    """Return each check's count and some of its reasons; a row that several checks drop is in each count."""
    counts = curation.counts()
    if not counts:
        return ["## What was taken out", "", "Nothing."]
    lines = ["## What was taken out", "", "| decided by | rows | for example |", "|---|---:|---|"]
    for check, count in counts.items():
        lines.append(f"| {check} | {count:,} | {'; '.join(_examples(curation, check))} |")
    undone = sum(one.verdict == "undo" for one in curation.decisions)
    people = sorted({one.by for one in curation.decisions if one.check == PERSON and one.by})
    lines += ["", "A row that several checks drop is counted by each. A person's word outweighs a check."]
    lines += [f"Looked at by: {', '.join(people)}."] if people else []
    lines += [f"{undone:,} decisions were taken back."] if undone else []
    return lines


def _examples(curation: Curation, counted: str) -> list[str]:
    check, _, verdict = counted.partition(": ")
    found: dict[str, str] = {}
    for row in curation.ids:
        for one in curation.standing(row):
            if one.check == check and verdict in {"", one.verdict} and len(found) < EXAMPLES:
                found[row] = f"`{row}` {one.reason}".replace("|", "\\|")
        if len(found) == EXAMPLES:
            break
    return list(found.values())


def _balance(rows: Rows[Any], kept: Rows[Any]) -> list[str]:
    """Return how many rows each group has, before and after; nothing where rows have no groups."""
    before, after = _groups(rows), _groups(kept)
    if len(before) < 2:
        return []
    lines = ["## Groups", "", "| group | before | after |", "|---|---:|---:|"]
    largest = sorted(before, key=lambda one: (-before[one], one))
    lines += [f"| {one or '(none)'} | {before[one]:,} | {after.get(one, 0):,} |" for one in largest[:CLASSES]]
    rest = largest[CLASSES:]
    if rest:
        sums = [sum(one.get(name, 0) for name in rest) for one in (before, after)]
        lines.append(f"| {len(rest)} others | {sums[0]:,} | {sums[1]:,} |")
    return lines


def _groups(rows: Rows[Any]) -> Mapping[str, int]:
    return Counter(str(getattr(row, "group", "") or "") for row in rows)
