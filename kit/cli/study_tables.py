"""What ``kit study`` prints: links, a ranking with what it rests on, and what might unblind."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from kit.humaneval.blindness import Blindness
    from kit.humaneval.leaderboard import Leaderboard
    from kit.humaneval.overview import Overview
    from kit.humaneval.powered import PoweredPair
    from kit.humaneval.study import Study
    from kit.intervals import Interval
    from kit.result import Measurement
    from kit.sharing.serve import Served


def show_links(served: Served, database: str) -> None:
    """Print where everybody goes, and where their votes do."""
    console = _console()
    table = _table("who", "link")
    for rater, link in served.links.items():
        _add(table, rater, link)
    _add(table, "you: leaderboard", served.owner_link)
    console.print(table, soft_wrap=True)
    if served.share_address:
        _line(
            console,
            "Anybody with a link may come in, from anywhere, while this runs. The address changes with each start.",
        )
    elif not served.address.startswith(("http://127.", "http://localhost", "http://[::1]")):
        _line(console, "Links travel unencrypted in this network: whoever listens can vote, too.")
    else:
        _line(console, "Only this machine gets in; --host 0.0.0.0 lets your network in, --share everybody with a link.")
    _line(console, f"Votes go into {database}: kit study rank --db {database}")
    _line(console, "^C ends it; the links stay the same.")


def show_overview(found: Overview, judged: Sequence[PoweredPair] = ()) -> None:
    """Print a ranking, what it rests on, what a judge adds to it, and what the votes cannot tell."""
    console = _console()
    _line(console, f"{found.study}: {found.question}" if found.question else found.study, "bold")
    seconds = f", {found.median_s:.1f} s each (median)" if found.median_s is not None else ""
    _line(
        console, f"{found.votes} votes, {found.skipped} of them skipped{seconds}; protocol {found.digest[:16]}", "dim"
    )
    if found.board is not None:
        _ranking(console, found.board)
    for criterion, by_condition in found.rubric.items():
        _rubric(console, criterion, by_condition, found.rubric_agreement.get(criterion))
    for one in found.verdicts:
        _line(console, f"{one.first} and {one.second}: {one.to_text()} (items, each counted once)")
    for pair in judged:
        _line(console, f"With the judge: {pair.to_text()}")
    if found.board is not None and len(found.board.pairs) > 1:
        _pairs(console, found.board)
    if found.matrix:
        _matrix(console, found)
    if found.raters:
        _raters(console, found)
    _biases(console, found)
    for note in found.notes:
        _line(console, f"The votes cannot tell: {note}", "yellow")


def show_check(study: Study, report: Blindness) -> None:
    """Print a study's hash and what might tell its conditions apart."""
    console = _console()
    _line(
        console, f"{study.name}: {report.items} items, {len(study.conditions)} conditions, {len(study.raters)} raters"
    )
    _line(console, f"Protocol's SHA-256, to be published before the first vote: {study.digest}")
    _line(console, f"Looked at: {', '.join(report.traits)}", "dim")
    if report.clues:
        table = _table("clue", "reaches raters", "guesses right", "rule")
        for clue in report.clues:
            share = clue.guessed
            seen = "yes" if clue.trait.seen else "no, kit leaves it behind"
            _add(table, clue.trait.name, seen, f"{share.value:.0%} of {share.n}", clue.rule)
        console.print(table)
    for item, whose, name in report.named:
        _line(console, f"{item}: the output of {whose} says {name!r}", "yellow")
    for note in report.notes:
        _line(console, f"Note: {note}")
    if study.design != "likert" and report.items < (fewest := _fewest_items(study)):
        what = f"{report.items} items cannot end in a verdict: {fewest} could, if one model won every one of them."
        _line(console, f"Note: {what} kit study plan tells what is likely.", "yellow")
    if report.is_blind:
        _line(console, "Nothing found that reaches raters and tells the conditions apart.", "green")
    else:
        _line(console, "What is compared may itself be a clue: no fault then, but worth a sentence in the methods.")


def _fewest_items(study: Study) -> int:
    from kit.humaneval.sequential import fewest_outcomes

    n = len(study.conditions)
    return fewest_outcomes(study.stop.alpha / (n * (n - 1) / 2))  # all pairs share the rule's alpha


def _ranking(console: Console, board: Leaderboard) -> None:
    table = _table(
        "", "model", "strength", "these raters", "new raters", "new, by sandwich", "places", "win share", "votes"
    )
    for one in board.standings:
        places = "–" if one.places is None else f"{one.places[0]} to {one.places[1]}"
        spans = (one.spans.these_raters, one.spans.new_raters, one.spans.sandwich_new)
        _add(
            table, "?" if one.place is None else str(one.place), one.model, f"{one.strength:.3f}", *map(_span, spans),
            places, f"{one.win_share:.3f}", str(one.votes),
        )  # fmt: skip
    console.print(table)
    who = "1 rater" if board.raters == 1 else f"{board.raters} raters"
    _line(
        console,
        f"{board.votes} comparisons by {who} on {board.prompts} items; strengths are log-odds "
        "(Davidson's model), intervals 95%: bootstrap over prompts, over raters and prompts, two-way sandwich",
        "dim",
    )


def _pairs(console: Console, board: Leaderboard) -> None:
    table = _table("pair", "difference", "p", "p, Holm")
    for one in board.pairs:
        _add(table, f"{one.first} over {one.second}", f"{one.difference:.3f}", f"{one.p:.3g}", f"{one.p_holm:.3g}")
    console.print(table)


def _matrix(console: Console, found: Overview) -> None:
    cells = {}
    for one in found.matrix:
        n = one.won + one.lost + one.tied
        if n:
            cells[one.first, one.second] = f"{(one.won + one.tied / 2) / n:.2f} of {n}"
            cells[one.second, one.first] = f"{(one.lost + one.tied / 2) / n:.2f} of {n}"
    names = [one.model for one in found.board.standings] if found.board else []
    table = _table("share won against", *names)
    for row in names:
        _add(table, row, *(cells.get((row, column), "") for column in names))
    console.print(table)


def _raters(console: Console, found: Overview) -> None:
    table = _table("rater", "votes", "seconds", "left", "ties", "same again", "gold right", "pull")
    for one in found.raters:
        shift = "–" if one.shift != one.shift else f"{one.shift:.2f}"
        seconds = "–" if one.median_s != one.median_s else f"{one.median_s:.1f}"
        shares = [
            _share(one.left_share),
            f"{one.tie_share:.0%}",
            _share(one.self_consistency),
            _share(one.gold_accuracy),
        ]
        _add(table, one.rater, str(one.votes), seconds, *shares, shift)
    console.print(table)
    _line(console, "pull: how far the ranking moves without that rater, log-odds", "dim")


def _biases(console: Console, found: Overview) -> None:
    for title, one in (
        ("Position: chose left", found.left_share),
        ("Position: repeats that went to the same side", found.same_side),
        ("Agreement, Krippendorff's alpha", found.agreement),
    ):
        if one is not None:
            _line(console, f"{title}: {one} ({one.method})")
    if found.identical:
        _line(console, f"Identical outputs, ties that nobody saw and that are not counted: {found.identical}")


def _rubric(
    console: Console, criterion: str, by_condition: Mapping[str, Measurement], alpha: Measurement | None
) -> None:
    table = _table(criterion, "mean", "95%", "n")
    for name, one in by_condition.items():
        _add(table, name, f"{one.value:.2f}", f"{one.low:.2f} to {one.high:.2f}", str(one.n))
    console.print(table)
    if alpha is not None:
        _line(console, f"agreement: {alpha}", "dim")


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*map(Text, cells))  # as Text: an "[a-z]" in a name is no markup


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style), soft_wrap=True)


def _span(one: Interval | None) -> str:
    return "–" if one is None else f"{one.low:.2f} to {one.high:.2f}"


def _share(one: Measurement | None) -> str:
    return "–" if one is None else f"{one.value:.0%} of {one.n}"
