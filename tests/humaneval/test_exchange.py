"""What goes out comes back the same, other people's battles come in, and bad files change nothing."""

import json
import uuid

import pytest
from small_studies import cast, make_study

from kit.humaneval.errors import StudyError
from kit.humaneval.exchange import export_battles, export_votes, import_battles, import_votes
from kit.humaneval.store import Store


def vote_on(store, study, answers, rater="ana"):
    for answer in answers:
        store.record(study, cast(study, store.hand_out(study, rater, holder=rater), answer, rater=rater))


@pytest.fixture
def voted(store):
    study = make_study(n=9, repeats=0.2)
    store.register(study)
    vote_on(store, study, ["left", "right", "tie", "both_bad", "skip"])
    vote_on(store, study, ["right"], "ben")
    first = next(store.votes("captions", rater="ana"))
    store.undo(study, rater="ana", undoes=first.uuid, uuid=str(uuid.uuid4()))
    return study


@pytest.fixture
def other(tmp_path):
    with Store(str(tmp_path / "other.db")) as opened:
        yield opened


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_there_and_back(voted, store, other, tmp_path, ending):
    path = tmp_path / f"captions.{ending}"
    assert export_votes(store, "captions", path) == 8
    assert import_votes(other, path) == 8
    assert list(other.votes("captions", every=True)) == list(store.votes("captions", every=True))
    assert import_votes(other, path) == 0
    assert other.protocol("captions")["conditions"] == ["adapted", "base"]
    assert import_votes(store, path, name="captions") == 0
    elsewhere = tmp_path / f"votes.{ending}"
    elsewhere.write_bytes(path.read_bytes())
    assert import_votes(store, elsewhere) == 0, "votes come back to the study that they left, whatever the file's name"
    with pytest.raises(StudyError, match="in this database already, in the study 'captions'"):
        import_votes(store, elsewhere, name="copy")
    assert set(store.studies()) == {"captions"}, "no second study was made"
    again = tmp_path / f"again.{ending}"
    export_votes(other, "captions", again)
    assert ending == "parquet" or again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("design", "more", "answer"),
    [("best_of", {}, "[1,0,2]"), ("likert", {"rubric": {"good": ("no", "yes")}}, '{"good":2}')],
)
def test_rankings_and_rubrics_too(other, tmp_path, ending, design, more, answer):
    study = make_study(design=design, conditions=("a", "b", "c"), **more)
    path = tmp_path / f"votes.{ending}"
    with Store(str(tmp_path / "votes.db")) as store:
        store.register(study)
        vote_on(store, study, [answer, "skip"])
        export_votes(store, "captions", path)
        other.register(study)
        assert import_votes(store, path) == 0, "they are in the study that they left"
        assert import_votes(other, path, name="captions") == 2
        assert list(other.votes("captions")) == list(store.votes("captions"))


@pytest.mark.parametrize(
    ("design", "more", "answer"),
    [
        ("best_of", {}, '["1","0","2"]'),
        ("best_of", {}, " [1,0,2]"),
        ("likert", {"rubric": {"good": ("no", "yes")}}, '{"good":"2"}'),
    ],
)
def test_an_answer_that_nothing_could_be_counted_by_is_refused(other, tmp_path, design, more, answer):
    study = make_study(design=design, conditions=("a", "b", "c"), **more)
    other.register(study)
    shown = ["a", "b", "c"] if design == "best_of" else ["a"]
    row = {"rater": study.raters[0], "item": study.items[0].id, "shown": json.dumps(shown), "answer": answer}
    (tmp_path / "votes.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(StudyError, match=f"no answer of the design {design}"):
        import_votes(other, tmp_path / "votes.jsonl", name=study.name)


def test_a_csv_of_three_columns_is_enough(other, tmp_path):
    path = tmp_path / "friends.csv"
    path.write_text("\ufeffleft,right,answer\nbase,new,left\nnew,base,tie\n", encoding="utf-8")
    assert import_votes(other, path) == 2
    assert import_votes(other, path) == 0
    table = other.table("friends")
    assert table.answer.tolist() == [0, 2]
    assert len(table.items) == 2
    assert [vote.client for vote in other.votes("friends")] == ["import", "import"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("left,right,anser,colour\na,b,left,red\n", "no such column: 'anser'. Did you mean 'answer'"),
        ("left,right,anser,colour\na,b,left,red\n", "no such column: 'colour'"),
        ("left,right,anser,colour\na,b,left,red\n", "has no column 'answer'. Did you mean 'anser'"),
        ("left,right,answer\na,b,lft\na,,left\n", "line 2: no answer of the design pairwise: 'lft'"),
        ("left,right,answer\na,b,lft\na,,left\n", "line 3: a condition without a name"),
        ("left,right,answer,ms\na,b,left,soon\n", "line 2: ms, at or uuid: could not convert"),
        ("left,right,answer,uuid\na,b,left,7\n", "line 2: ms, at or uuid: badly formed"),
        ("left,right,answer,kind\na,b,left,second\n", "no such kind: 'second'"),
        ("left,right,answer\na,b\n", "line 2: has fewer fields than the header"),
        ("left,right,answer\na,b,left,x\n", "line 2: has more fields than the header"),
        ("left,right,answer\na,a,left\n", "line 2: a condition against itself: 'a'"),
        ("left,right,answer\n", "holds no votes"),
        ("left,right,answer\n" + "a" * 201 + ",b,left\n", "a name of more than 200 characters"),
    ],
)
def test_bad_csv_changes_nothing(other, tmp_path, text, said):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(StudyError) as caught:
        import_votes(other, path)
    assert said in str(caught.value)
    assert other.studies() == {}


def test_at_most_twenty_faults_and_nothing_written(store, tmp_path, voted):
    before = list(store.votes("captions", every=True))
    path = tmp_path / "bad.csv"
    good = "base,adapted,left,ana,item 3\n"
    path.write_text("left,right,answer,rater,item\n" + good + "base,adapted,left,ana,item 99\n" * 30)
    with pytest.raises(StudyError) as caught:
        import_votes(store, path, name="captions")
    assert len(caught.value.faults) == 20
    assert "line 3: no such item in the study: 'item 99'. Did you mean 'item" in str(caught.value)
    assert list(store.votes("captions", every=True)) == before


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("base,adapted,left,anna,item 3", "no such rater in the study: 'anna'. Did you mean 'ana'?"),
        ("bass,adapted,left,ana,item 3", "no such condition in the study: 'bass'. Did you mean 'base'?"),
    ],
)
def test_votes_must_fit_a_registered_study(store, tmp_path, voted, row, said):
    path = tmp_path / "more.csv"
    path.write_text(f"left,right,answer,rater,item\n{row}\n")
    with pytest.raises(StudyError) as caught:
        import_votes(store, path, name="captions")
    assert said in str(caught.value)


def test_one_id_for_two_votes(other, tmp_path):
    name = str(uuid.uuid4())
    path = tmp_path / "twice.csv"
    path.write_text(f"uuid,left,right,answer,item\n{name},a,b,left,i\n{name},a,b,right,i\n")
    with pytest.raises(StudyError, match=f"vote {name}: another vote has this id"):
        import_votes(other, path)
    path.write_text(f"uuid,left,right,answer,item\n{name},a,b,left,i\n{name},a,b,left,i\n")
    assert import_votes(other, path) == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("votes.txt", b"", "rows are not kept in .txt"),
        ("votes.csv", b"left,right,answer\n\xff,b,left\n", "save it as UTF-8"),
        ("votes.jsonl", b'{"left": 1}\nnot json\n', "line 1: has no column"),
        ("votes.jsonl", b"[1]\n", "row 1: must be a mapping"),
        ("votes.jsonl", b"{oops\n", "line 1: is not JSON"),
        ("votes.json", b"{}", "is not a list of rows"),
        ("votes.parquet", b"PAR2", "is not Parquet"),
    ],
)
def test_files_that_are_not_what_they_say(other, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError) as caught:
        import_votes(other, tmp_path / name)
    assert said in str(caught.value)
    with pytest.raises(StudyError, match="cannot be read: No such file"):
        import_votes(other, tmp_path / "gone.csv")


def test_a_file_is_whole_or_the_one_before(store, voted, tmp_path):
    path = tmp_path / "votes.csv"
    path.write_text("before")
    with pytest.raises(StudyError, match="no study 'nosuch'"):
        export_votes(store, "nosuch", path)
    assert path.read_text() == "before"
    with pytest.raises(StudyError, match="cannot be written"):
        export_votes(store, "captions", tmp_path / "nowhere" / "votes.csv")
    assert [file.name for file in tmp_path.iterdir() if file.name.endswith(".part")] == []


# The first rows of FastChat's clean_battle_20240814_public.json have these fields; names and ids are made up.
BATTLES = [
    {"model_a": "vicuna", "model_b": "koala", "winner": "model_a", "judge": "user_1", "turn": 1, "anony": True,
     "language": "English", "tstamp": 1682351591.1322, "conv_metadata": {"sum_user_tokens": 7}, "question_id": "q1"},
    {"model_a": "koala", "model_b": "dolly", "winner": "tie (bothbad)", "judge": "user_2", "turn": 1, "anony": True,
     "language": "Spanish", "tstamp": 1682351600.5, "question_id": "q2"},
    {"model_a": "dolly", "model_b": "vicuna", "winner": "tie", "judge": "user_1", "turn": 2, "anony": True,
     "language": "German", "tstamp": 1682351700.0, "question_id": "q3"},
    {"model_a": "dolly", "model_b": "vicuna", "winner": "both_bad", "judge": None, "id": "new style"},
    {"model_a": "dolly", "model_b": "vicuna", "winner": "model_b"},
]  # fmt: skip


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_battles_come_in_and_go_out(store, other, tmp_path, ending):
    source = tmp_path / "arena.json"
    source.write_text(json.dumps(BATTLES))
    assert import_battles(store, source) == 5
    assert import_battles(store, source) == 0
    votes = list(store.votes("arena"))
    assert [vote.shown for vote in votes][:2] == [("vicuna", "koala"), ("koala", "dolly")]
    assert [vote.answer for vote in votes] == ["left", "both_bad", "tie", "both_bad", "right"]
    assert [vote.item for vote in votes][:4] == ["q1", "q2", "q3", "new style"]
    assert votes[0].at == 1682351591.1322
    path = tmp_path / f"arena.out.{ending}"
    assert export_battles(store, "arena", path) == 5
    assert import_battles(other, path, name="arena") == 5
    again = list(other.votes("arena"))
    assert [(a.shown, a.answer, a.item, a.rater) for a in again] == [
        (a.shown, a.answer, a.item, a.rater) for a in votes
    ]


def test_battles_are_what_fastchat_reads(store, voted, tmp_path):
    path = tmp_path / "battles.json"
    assert export_battles(store, "captions", path) == 4  # five and one less the skip and the one taken back
    for battle in json.loads(path.read_text()):
        assert battle["winner"] in {"model_a", "model_b", "tie", "tie (bothbad)"}
        assert {"model_a", "model_b", "judge", "turn", "anony", "language", "tstamp"} <= set(battle)


def test_bad_battles(other, tmp_path):
    path = tmp_path / "arena.jsonl"
    path.write_text(
        '{"model_a": "x", "model_b": "y", "winner": "model_c"}\n{"model_a": "", "model_b": "y", "winner": "tie"}\n'
    )
    with pytest.raises(StudyError) as caught:
        import_battles(other, path)
    assert "line 1: no such winner: 'model_c'. Did you mean 'model_" in str(caught.value)
    assert "line 2: a model without a name" in str(caught.value)
    path.write_text('{"model_a": "x", "winner": "tie"}\n')
    with pytest.raises(StudyError, match=r"has no column 'model_b'\. Did you mean 'model_a'\?"):
        import_battles(other, path)
