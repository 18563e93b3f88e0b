"""``kit study``: blind comparisons by people: serve, rank, exchange votes, plan, check."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kit.humaneval.store import Store
    from kit.sharing.serve import Served

app = typer.Typer(help="Blind comparisons by people: serve, rank, export, import, plan, check.", no_args_is_help=True)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study's protocol.")]
Database = Annotated[
    str,
    typer.Option(
        "--db", metavar="URL", help="sqlite:///FILE, postgresql+psycopg://USER@HOST/NAME, a file, or a demo's folder."
    ),
]
Name = Annotated[str, typer.Option("--study", metavar="NAME", help="Which study; the only one by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]

FORMATS = {
    "csv": ".csv", "parquet": ".parquet", "jsonl": ".jsonl", "json": ".json", "battles": ".jsonl", "dpo": ".jsonl",
}  # fmt: skip


@app.command("serve")
def serve_study(
    path: StudyFile,
    *,
    db: Annotated[str, typer.Option("--db", metavar="URL", help=r"The votes. \[default: beside the study]")] = "",
    raters: Annotated[str, typer.Option(metavar="ANA,BEN", help="Who gets a link; all raters by default.")] = "",
    host: Annotated[str, typer.Option(help="Where to listen; only this machine by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Links hold as long as it stays the same.")] = 7860,
    share: Annotated[bool, typer.Option("--share", help="Open Gradio's tunnel: whoever has a link may come.")] = False,
) -> None:
    """Serve a study as a page, with a link for each rater and one for you.

    Links stay the same over a restart, and every acknowledged vote is there after one, however it came about.
    """
    from kit.cli.study_bundles import answered_study
    from kit.cli.study_files import remember
    from kit.cli.study_tables import show_links
    from kit.humaneval.blindness import blindness
    from kit.humaneval.schema import hidden
    from kit.humaneval.store import Store
    from kit.sharing.arena import Arena, check_invited
    from kit.sharing.serve import serve

    study = answered_study(path)
    invited = tuple(dict.fromkeys(name.strip() for name in raters.split(",") if name.strip()))
    check_invited(study, invited)
    store = Store(db or f"sqlite:///{path.with_suffix('.db')}")
    arena = Arena(study, store, invited)
    remember(store, study, path)
    if not (report := blindness(study)).is_blind:
        print(f"It is not blind in all respects: kit study check {path} says how ({len(report.clues)} clues).")
    served = serve(arena, host=host, port=port, share=share)
    show_links(served, hidden(store.url).removeprefix("sqlite:///"))
    with store:
        _wait(served)


def _wait(served: Served) -> None:
    """Wait for ^C or a polite end."""
    import signal

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        served.wait()
    except KeyboardInterrupt:
        print("Closed. Every acknowledged vote is in the database; the same command goes on with the same links.")
    finally:
        served.close()


@app.command("rank")
def rank_study(
    db: Database,
    *,
    study: Name = "",
    rounds: Annotated[int, typer.Option(min=1, help="Bootstrap rounds.")] = 1000,
    judge: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A judge's points, item,base,adapted: shares that they make surer."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show who is better and how sure that is: for these raters, for new ones, and what the votes cannot tell."""
    from kit.cli.study_files import only_study, open_store
    from kit.cli.study_tables import show_overview
    from kit.humaneval.overview import overview
    from kit.humaneval.powered import powered_pairs, read_judge

    points = read_judge(judge) if judge is not None else None
    with open_store(db) as store:
        name = only_study(store, study)
        found = overview(store, name, rounds=rounds)
        judged = powered_pairs(store.table(name), points) if points is not None else []
    if as_json:
        import json
        from dataclasses import asdict

        more = {"judged": [asdict(one) for one in judged]} if judged else {}
        print(json.dumps(found.to_json() | more, ensure_ascii=False, indent=1))
    else:
        show_overview(found, judged)


@app.command("export")
def export_study(
    db: Database,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to; replaced if it is there.")],
    form: Annotated[
        str, typer.Option("--format", help=rf"One of {', '.join(FORMATS)}. \[default: by the file's ending]")
    ] = "",
    study: Name = "",
    protocol: Annotated[
        Path | None,
        typer.Option(
            "--protocol",
            metavar="STUDY.yaml",
            help=r"For dpo: where prompts and outputs are. \[default: where it was served from]",
        ),
    ] = None,
) -> None:
    """Write a study's votes to a file: kit's own columns, battles as FastChat and Arena have them, or preferences."""
    from kit.cli.study_files import only_study, open_store
    from kit.errors import did_you_mean, listed
    from kit.humaneval.errors import StudyError
    from kit.humaneval.exchange import export_battles, export_votes
    from kit.humaneval.preferences import check_ending

    if form and form not in FORMATS:
        allowed = f"Allowed: {listed(FORMATS)}."
        raise StudyError.of(f"--format {form}", f"no such format.{did_you_mean(form, FORMATS)}", allowed=allowed)
    if form in {"csv", "parquet", "jsonl", "json"} and out.suffix.lower() != f".{form}":
        raise StudyError.of(f"--out {out}", f"does not end in .{form}", f"write --out {out.with_suffix(f'.{form}')}")
    if form == "dpo":
        check_ending(out)
    with open_store(db) as store:
        name = only_study(store, study)
        if form == "dpo":
            rows = _export_preferences(store, name, protocol, out)
        else:
            rows = (export_battles if form == "battles" else export_votes)(store, name, out)
    print(f"{rows} rows: {out}")


def _export_preferences(store: Store, name: str, path: Path | None, out: Path) -> int:
    from kit.cli.study_files import protocol_of
    from kit.humaneval.preferences import preference_rows, write_preferences

    study = protocol_of(store, name, path)
    rows = preference_rows(study, store.votes(name))
    for fault in rows.faults:
        print(f"left out: {fault}", file=sys.stderr)
    return write_preferences(rows, out)


@app.command("import")
def import_study(
    path: Annotated[Path, typer.Argument(metavar="VOTES", help="CSV, Parquet, JSONL or JSON.")],
    db: Database,
    *,
    battles: Annotated[bool, typer.Option("--battles", help="The file holds FastChat's or Arena's battles.")] = False,
    study: Annotated[
        str,
        typer.Option("--study", metavar="NAME", help=r"\[default: where its votes are already, else the file's stem]"),
    ] = "",
) -> None:
    """Append votes from a file; the same file twice adds nothing."""
    from kit.cli.study_files import store_to_fill
    from kit.humaneval.exchange import home_of, import_battles, import_votes

    with store_to_fill(db) as store:
        name = study or (path.stem if battles else home_of(store, path))
        new = (import_battles if battles else import_votes)(store, path, name=name)
        print(f"{new} new votes in the study {name!r}")


@app.command("plan")
def plan_study(
    *,
    win_share: Annotated[float, typer.Option(help="Share of decided votes that the better one should win.")] = 0.6,
    raters: Annotated[int, typer.Option(min=1, help="Among how many people the votes are shared.")] = 5,
    tie_rate: Annotated[
        float | None, typer.Option(help=r"Share of ties. \[default: as measured with --db, else 0.2]")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help=r"Seconds a vote. \[default: as measured with --db, else 10]")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Chance of a false verdict.")] = 0.05,
    power: Annotated[float, typer.Option(help="Power of the test that looks once.")] = 0.8,
    max_votes: Annotated[int, typer.Option(min=1, help="Where the study ends.")] = 2000,
    db: Annotated[
        str, typer.Option("--db", metavar="URL", help="Take ties and seconds from votes that are there.")
    ] = "",
    study: Name = "",
    as_json: AsJson = False,
) -> None:
    """Tell how many votes and minutes a rater a verdict will take, before anybody votes."""
    import json
    from dataclasses import asdict

    from kit.cli.study_files import only_study, open_store
    from kit.humaneval.planner import plan

    if db:
        with open_store(db) as store:
            measured = _measured(store, only_study(store, study))
        tie_rate = measured[0] if tie_rate is None else tie_rate
        seconds = measured[1] if seconds is None else seconds
    ties, pace = 0.2 if tie_rate is None else tie_rate, 10.0 if seconds is None else seconds
    found = plan(
        win_share=win_share, raters=raters, tie_rate=ties, seconds_per_vote=pace, alpha=alpha, power=power,
        max_votes=max_votes,
    )  # fmt: skip
    if as_json:
        print(json.dumps({**asdict(found), "tie_rate": ties, "seconds_per_vote": pace}))
        return
    print(f"{found.to_text()}: {win_share:.0%} of decided votes, {ties:.0%} ties, {pace:.1f} s a vote, {raters} raters")
    print(
        f"A test that looks once, with {power:.0%} power, needs {found.fixed} votes; this one may be looked at often."
    )


def _measured(store: Store, name: str) -> tuple[float, float | None]:
    """Return the share of ties so far, and the median seconds of a vote."""
    import math

    from kit.humaneval.raters import median_seconds
    from kit.humaneval.table import RIGHT

    votes = store.table(name).comparisons()
    seconds = median_seconds(votes)
    return float((votes.answer > RIGHT).mean()) if len(votes) else 0.2, seconds if math.isfinite(seconds) else None


@app.command("check")
def check_study(path: StudyFile, *, as_json: AsJson = False) -> None:
    """Read a study and say what might tell its models apart: lengths, shapes, durations, file names, EXIF, names."""
    from kit.cli.study_bundles import answered_study
    from kit.cli.study_tables import show_check
    from kit.humaneval.blindness import blindness

    study = answered_study(path)
    report = blindness(study)
    if as_json:
        import json
        from dataclasses import asdict

        print(
            json.dumps(
                {"digest": study.digest, "is_blind": report.is_blind, **asdict(report)}, ensure_ascii=False, indent=1
            )
        )
    else:
        show_check(study, report)
