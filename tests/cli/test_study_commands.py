"""``kit study`` as people type it: check, plan, serve, rank, export, import, and every kind of bad input."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from free_ports import free_port
from voting_study import Client, Command

from kit.cli import main
from kit.humaneval.protocol import read_study
from kit.humaneval.store import Store
from kit.humaneval.votes import Vote

Call = Callable[..., subprocess.CompletedProcess[str]]

STUDY = """
question: Which describes the picture better?
conditions: [base, adapted]
raters: [ana, ben]
repeats: 0.2
items:
"""


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command in an empty folder, in this process: forty times two seconds of imports would prove no more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        typed = list(map(str, words))
        monkeypatch.setattr(sys, "argv", ["kit", *typed])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return subprocess.CompletedProcess(typed, int(ended.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "captions.yaml"
    lines = [
        f"  - {{id: i{n}, prompt: Describe {n}., outputs: {{base: A cat {n}., adapted: A tabby {n}.}}}}"
        for n in range(12)
    ]
    path.write_text(STUDY + "\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def voted(study: Path, tmp_path: Path) -> Path:
    """A database in which both raters voted on everything; ``adapted`` mostly wins."""
    luck, path = random.Random(3), tmp_path / "captions.db"
    with Store(str(path)) as store:
        known = read_study(study)
        store.register(known)
        for rater in known.raters:
            while task := store.hand_out(known, rater, holder="t"):
                better = ("left", "right")[task.shown.index("adapted")]
                answer = better if luck.random() < 0.75 else luck.choice(["left", "right", "tie", "both_bad"])
                name = str(uuid.uuid4())
                store.record(known, Vote.on(known, task, rater=rater, answer=answer, uuid=name, ms=2500, client="t"))
    return path


def test_rank_tells_all(kit: Call, voted: Path) -> None:
    done = kit("study", "rank", "--db", voted)
    assert done.returncode == 0, done.stderr
    for wanted in (
        "comparisons by 2 raters",
        "these raters",
        "new raters",
        "adapted",
        "share won against",
        "Position: chose left",
        "alpha",
        "same again",
    ):
        assert wanted in done.stdout, wanted
    found = json.loads(kit("study", "rank", "--db", f"sqlite:///{voted}", "--json").stdout)
    assert [one["model"] for one in found["board"]["standings"]] == ["adapted", "base"]
    assert found["votes"] == 30  # twelve items and three repeats for each of two
    assert found["left_share"]["baseline"] == 0.5


def test_no_more_is_promised_than_the_study_has_items_for(kit: Call, voted: Path, study: Path) -> None:
    (found,) = json.loads(kit("study", "rank", "--db", voted, "--json").stdout)["verdicts"]
    assert found["wins"] + found["losses"] + found["ties"] == len(read_study(study).items)
    assert (found["verdict"], found["likely_left"]) == ("ended", None)


def test_a_rubric_is_ranked_by_its_means(kit: Call, tmp_path: Path) -> None:
    path = tmp_path / "rubric.yaml"
    items = "\n".join(f"  - {{id: {name}, prompt: p, outputs: {{base: x, adapted: y}}}}" for name in "ab")
    head = "question: How good?\ndesign: likert\nrubric: {fluent: 5}\nconditions: [base, adapted]\nraters: [ana]\n"
    path.write_text(f"{head}items:\n{items}\n")
    known = read_study(path)
    with Store(str(tmp_path / "rubric.db")) as store:
        store.register(known)
        while task := store.hand_out(known, "ana", holder="t"):
            points = json.dumps({"fluent": 4 if task.shown == ("adapted",) else 2})
            store.record(known, Vote.on(known, task, rater="ana", answer=points, uuid=str(uuid.uuid4())))
    shown = kit("study", "rank", "--db", "rubric.db")
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"adapted\s+4\.00", shown.stdout)


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_votes_go_out_and_come_back(kit: Call, voted: Path, tmp_path: Path, ending: str) -> None:
    out = kit("study", "export", "--db", voted, "--out", f"votes.{ending}")
    assert out.returncode == 0, out.stderr
    assert "30 rows" in out.stdout
    back = kit("study", "import", f"votes.{ending}", "--db", "second.db", "--study", "captions")
    assert "30 new votes" in back.stdout
    assert "0 new votes" in kit("study", "import", f"votes.{ending}", "--db", "second.db", "--study", "captions").stdout
    home = kit("study", "import", f"votes.{ending}", "--db", voted)
    assert "0 new votes in the study 'captions'" in home.stdout, home.stderr
    first, second = (json.loads(kit("study", "rank", "--db", db, "--json").stdout) for db in (voted, "second.db"))
    (one, other), (same, alike) = first["board"]["standings"], second["board"]["standings"]
    assert [one["model"], other["model"]] == [same["model"], alike["model"]]
    assert one["strength"] == pytest.approx(same["strength"], abs=1e-9)
    assert (one["votes"], one["win_share"]) == (same["votes"], same["win_share"])


def test_battles_and_preferences(kit: Call, voted: Path, tmp_path: Path) -> None:
    assert kit("study", "export", "--db", voted, "--format", "battles", "--out", "battles.jsonl").returncode == 0
    row = json.loads((tmp_path / "battles.jsonl").read_text().splitlines()[0])
    assert {"model_a", "model_b", "winner"} <= set(row)
    assert kit("study", "import", "battles.jsonl", "--battles", "--db", "b.db").returncode == 0
    (tmp_path / "one.csv").write_text("left,right,answer,rater\na,b,left,ana\nb,a,left,ana\n")
    assert kit("study", "import", "one.csv", "--db", "one.db").returncode == 0
    assert "2 comparisons by 1 rater on" in kit("study", "rank", "--db", "one.db").stdout
    made = kit(
        "study", "export", "--db", voted, "--format", "dpo", "--out", "prefs.jsonl"
    )  # captions.yaml is beside it
    assert made.returncode == 0, made.stderr
    rows = [json.loads(line) for line in (tmp_path / "prefs.jsonl").read_text().splitlines()]
    assert rows
    assert {"prompt", "chosen", "rejected", "margin"} <= set(rows[0])


def test_a_judge_makes_shares_surer(kit: Call, voted: Path, tmp_path: Path) -> None:
    rows = [f"{'i' if n < 12 else 'more '}{n},{n % 2},{2 + n % 3}" for n in range(60)]
    (tmp_path / "points.csv").write_text("\n".join(["item,base,adapted", *rows]) + "\n")
    done = kit("study", "rank", "--db", voted, "--judge", "points.csv")
    assert done.returncode == 0, done.stderr
    assert re.search(r"With the judge: (base|adapted) wins 0\.\d+ \[.*by 12 items that people judged", done.stdout)
    (found,) = json.loads(kit("study", "rank", "--db", voted, "--judge", "points.csv", "--json").stdout)["judged"]
    assert found["share"]["mean"]["n"] == 12


def test_plan(kit: Call, voted: Path) -> None:
    done = kit("study", "plan", "--win-share", 0.6, "--raters", 5, "--tie-rate", 0)
    assert "194 votes" in done.stdout
    measured = json.loads(kit("study", "plan", "--db", voted, "--win-share", 0.7, "--json").stdout)
    assert measured["seconds_per_vote"] == 2.5
    assert 0 < measured["tie_rate"] < 0.5


def test_check_names_clues(kit: Call, study: Path) -> None:
    done = kit("study", "check", study)
    assert done.returncode == 0, done.stderr
    assert "length in characters" in done.stdout
    assert "the greater one is adapted" in done.stdout
    assert read_study(study).digest in done.stdout
    assert "12 items cannot end in a verdict: 15 could" in done.stdout
    longer = study.read_text() + "".join(
        f"  - {{id: more{n}, prompt: Say {n}., outputs: {{base: a {n}, adapted: b {n}}}}}\n" for n in range(3)
    )
    (study.parent / "longer.yaml").write_text(longer)
    assert "cannot end in a verdict" not in kit("study", "check", "longer.yaml").stdout
    assert json.loads(kit("study", "check", study, "--json").stdout)["is_blind"] is False


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["serve", "nope.yaml"], "nope.yaml: cannot be read"),
        (["serve", "captions.yaml", "--raters", "ana,bn"], "'bn' is no rater of this study. Did you mean 'ben'?"),
        (["serve", "captions.yaml", "--db", "mysql://x/y"], "kit keeps no votes in mysql"),
        (["rank", "--db", "nope.db"], "no such database"),
        (["rank", "--db", "captions.db", "--study", "caption"], "Did you mean 'captions'?"),
        (["export", "--db", "captions.db", "--out", "votes.xls"], "rows are not kept in .xls"),
        (["export", "--db", "captions.db", "--out", "votes.csv", "--format", "parquet"], "does not end in .parquet"),
        (["export", "--db", "captions.db", "--out", "votes.csv", "--format", "dop"], "Did you mean 'dpo'?"),
        (["export", "--db", "nope.db", "--out", "v.csv", "--format", "dpo"], "Fix: write --out v.jsonl"),
        (["import", "bad.csv", "--db", "nope.db"], "no such column: 'wimmer'"),
        (["import", "bad.csv", "--db", "captions.db", "--study", "captions"], "no such column: 'wimmer'"),
        (["import", "bad.csv", "--db", "newer.db"], "schema 99 is newer than this kit reads"),
        (["rank", "--db", "newer.db"], "schema 99 is newer than this kit reads"),
        (["rank", "--db", "captions.db", "--judge", "bad.csv"], "has answer, left, right, wimmer"),
        (["plan", "--win-share", "1.5"], "win_share: must be above 0.5 and below 1, got 1.5"),
        (["check", "bad.yaml"], "items: is missing"),
        (["rank", "--db", "bad.yaml"], "bad.yaml: is no SQLite database"),
    ],
)
def test_bad_input_ends_with_2_and_no_traceback(
    kit: Call, voted: Path, tmp_path: Path, words: list[str], wanted: str
) -> None:
    (tmp_path / "bad.csv").write_text("left,right,answer,wimmer\nbase,adapted,left,base\n")
    (tmp_path / "bad.yaml").write_text("question: Which?\n")
    from sqlalchemy import text

    with Store(str(tmp_path / "newer.db")) as store, store.engine.begin() as connection:
        connection.execute(text("UPDATE kit_meta SET value = '99' WHERE name = 'schema'"))
    done = kit("study", *words)
    assert done.returncode == 2
    assert wanted in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "nope.db").exists()


def test_a_study_that_changed_after_its_first_vote_is_refused_with_the_difference(
    kit: Call, voted: Path, study: Path
) -> None:
    study.write_text(
        study.read_text().replace("Which describes", "Which one describes").replace("A cat 3.", "A dog 3.")
    )
    done = kit("study", "serve", study)
    assert done.returncode == 2
    assert "changed after its first vote" in done.stderr
    assert 'question: was "Which describes the picture better?" and is' in done.stderr
    assert "items.i3" in done.stderr
    assert "'A cat 3.'" in done.stderr.replace('"', "'")


def test_several_studies_have_to_be_told_apart(kit: Call, voted: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("left,right,answer\na,b,left\n")
    assert kit("study", "import", "other.csv", "--db", voted).returncode == 0
    done = kit("study", "rank", "--db", voted)
    assert done.returncode == 2
    assert "There: captions, other." in done.stderr


def test_serve_prints_links_that_outlive_a_kill(kit: Call, study: Path, tmp_path: Path) -> None:
    port = free_port()
    command = Command(study, ("--raters", "ana", "--port", str(port)))
    try:
        links = command.start()
        assert set(links) == {"ana", "you: leaderboard"}
        assert len(links["ana"].split("#")[1]) == 26
        assert (tmp_path / "captions.db.secret").stat().st_mode & 0o777 == 0o600
        client, name = Client(links["ana"]), str(uuid.uuid4())
        page = client.state()["queue"][0]
        assert client.vote(page, name=name)[0] == 200
        assert Client(links["ana"].replace("#", "#x")).ask("form")[0] == 401
        busy = kit("study", "serve", "captions.yaml", "--port", port)
        assert busy.returncode == 2
        assert "cannot be listened at" in busy.stderr
        assert "end what listens there" in busy.stderr
        command.kill()
        assert command.start() == links
        client.connection = None
        status, view = client.vote(page, name=name)  # sent again after the restart
        assert (status, view["done"], view["refused"]) == (200, 1, False)
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(30) == 0
    finally:
        command.kill()
    with Store(str(tmp_path / "captions.db")) as store:
        assert [one.uuid for one in store.votes("captions", rater="ana")] == [name]


def test_an_open_secret_is_refused(kit: Call, voted: Path, tmp_path: Path) -> None:
    secret = tmp_path / "captions.db.secret"
    secret.write_text("00" * 32)
    secret.chmod(0o644)
    done = kit("study", "serve", "captions.yaml")
    assert done.returncode == 2
    assert "others may read it" in done.stderr


def test_preferences_are_refused_from_another_study(kit: Call, voted: Path, study: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(study.read_text().replace("A cat 3.", "A dog 3."))
    done = kit("study", "export", "--db", voted, "--format", "dpo", "--out", "p.jsonl", "--protocol", other)
    assert done.returncode == 2
    assert "items.i3" in done.stderr
    study.unlink()
    lost = kit("study", "export", "--db", voted, "--format", "dpo", "--out", "p.jsonl")
    assert lost.returncode == 2
    assert "give --protocol" in lost.stderr
