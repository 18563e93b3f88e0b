"""A mix for visual instruction tuning: describe the picture, answer, and say no when it is not there.

Built from OpenMoji (without flags, one picture per concept) and easy-VQA. Pictures keep the splits of their sources, so
test asks about concepts and names that training never showed. Every question that is asked with "yes" is asked as often
with "no": a reader who never looks gets half of those, one in three shapes and one in eight colours.

There is no text-only share, since no packaged source holds conversations; ``requests`` and ``remembered`` make one of
what the model itself answers before it is trained. Nor does the mix teach to refuse where no picture is shown; the
blind baseline would then be low for the wrong reason. Few of the noes can be argued about (is a rooster no chicken?).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kit.data import easy_vqa, openmoji
from kit.data.emoji_kinds import KINDS, excludes, kind_of
from kit.data.rows import SPLITS, Conversation, ImageText, Message, Question, Rows

NAME = "instruct"
# Prompt and answer belong together, so that what is asked tells how to answer.
_DESCRIBE = (
    ("What does the picture show?", "It shows {}."),
    ("Describe the picture in one sentence.", "The picture shows {}."),
    ("What is this?", "This is {}."),
    ("Describe what you see.", "I see {}."),
    ("Name what you see in a few words.", "{}"),
)
_IS_THERE = ("Is there {} in the picture?", "Do you see {}?", "Does the picture show {}?", "Is this {}?")
_KIND = ("What kind of thing is it?", "What kind of thing does the picture show?")
_ASK = ("{}", "{} Answer in one word.", "Look at the picture: {}")
_REQUESTS = ("What is {}?", "Write one sentence about {}.", "Where can one find {}?", "What is {} good for?")
_SENTENCE = re.compile(r"\s*(\S.{9,}?[.!?])(?=\s|$)")
_VOWEL = re.compile(r"(?!one\b|one-)[aeio]|hour|u[mnp](?!i)", re.IGNORECASE)  # an umbrella, a unicorn, a one o'clock
_DESCRIBED = 2  # conversations of each kind about one emoji
_EASY_VQA_SHARE = 0.5  # questions of easy-VQA for each conversation about an emoji


def load_conversations(split: str, *, limit: int | None = None, seed: int = 0) -> Rows[Conversation]:
    """Return the conversations of a split, one question and one answer each; pulls both parts at first use.

    In ``meta``, "kind" says what a conversation is about: "describe", "answer" (easy-VQA, or what kind of thing it is),
    "present" (is it there? yes) or "absent" (no). "answers" holds every right answer, an emoji's other names included;
    "candidates" what may be answered at all. "about" tells questions of a kind apart: what is asked for and not there
    is a neighbour in Unicode's order ("near": a lemon for a banana), any other emoji ("far"), or a "kind" of thing.

    Args:
        split: "train", "val", "test" or "all".
        limit: At most so many rows, drawn by a hash of ``seed`` and id; None for all. Balance then holds nearly.
        seed: Decides wordings, who is asked about what is not there, and which of easy-VQA's questions are taken.

    Raises:
        PartError: OpenMoji or easy-VQA cannot be pulled.
    """
    emoji, shapes = openmoji.load(split=split), easy_vqa.load(split=split)
    items: list[Conversation] = []
    for own in SPLITS if split == "all" else (split,):
        pictures = emoji.only([row for row in emoji if row.split == own and row.group != "flag"]).one_per_concept()
        about_emoji = list(_about_emoji(pictures, seed))
        questions = [row for row in shapes if row.split == own]
        items += about_emoji
        items += [_answer(row, seed) for row in _balanced(questions, int(_EASY_VQA_SHARE * len(about_emoji)), seed)]
    rows = Rows(
        tuple(items),
        name=NAME,
        split=split,
        licence=" AND ".join(sorted({emoji.licence, shapes.licence})),
        attribution=f"{emoji.attribution}; {shapes.attribution}",
    )
    return rows if limit is None else rows.limit(limit, seed=seed)


def questions(rows: Rows[Conversation]) -> Rows[Question]:
    """Return each question with the answer that follows it, for evaluation; ``group`` is the conversation's kind.

    Conversations without a picture are left out. Of several turns each stands alone, without those before it.
    """
    found = []
    for row in rows:
        if row.picture is None:
            continue
        for number, (asked, said) in enumerate(zip(row.messages, row.messages[1:], strict=False)):
            if (asked.role, said.role) == ("user", "assistant"):
                found.append(
                    Question(
                        id=f"{row.id}#{number}",
                        picture=row.picture,
                        question=asked.text,
                        answer=said.text,
                        answers=tuple(row.meta.get("candidates", ())),
                        group=str(row.meta.get("kind", "")),
                        split=row.split,
                        meta=row.meta,
                    )
                )
    return Rows(tuple(found), rows.name, rows.split, rows.licence, rows.attribution)


def requests(rows: Sequence[Conversation], n: int, *, seed: int = 0) -> list[str]:
    """Return requests that need no picture, about things that pictures among the rows show; fewer where there are few.

    Args:
        rows: Conversations of ``load_conversations``.
        n: At most so many.
        seed: Decides which things, and what is asked of each.
    """
    things = {row.meta["name"]: kind_of(row.id.partition("/")[0]) for row in rows if row.meta.get("kind") == "describe"}
    plain = [name for name, kind in things.items() if kind not in {"", "a face"}]
    drawn = sorted(plain, key=lambda name: _luck(seed, "request", name))[:n]
    return [_drawn(_REQUESTS, 1, seed, name)[0].format(phrase(name)) for name in drawn]


def remembered(asked: Sequence[str], said: Sequence[str], *, times: int = 1) -> list[Conversation]:
    """Return a model's own answers, up to the end of their first sentence, as conversations without a picture.

    Trained on beside new things, they hold what it knew in place. Answers without a whole sentence are left out.

    Args:
        asked: What it was asked, shape (n,).
        said: What it answered, before training, shape (n,).
        times: How often each is repeated: a step's pictures are drawn from thousands, and texts are few.

    Source:
        Robins (1995), doi:10.1080/09540099550039318, for rehearsing a network's own answers.
    """
    found = []
    for question, answer in zip(asked, said, strict=True):
        if sentence := _SENTENCE.match(answer):
            messages = (Message("user", question), Message("assistant", sentence[1]))
            meta = {"kind": "text", "source": "the model itself"}
            found.append(Conversation(f"text/{question}", None, messages, split="train", meta=meta))
    return found * times


def _about_emoji(rows: Sequence[ImageText], seed: int) -> Iterator[Conversation]:
    by_points = sorted(rows, key=lambda row: [int(point, 16) for point in row.id.split("-")])
    by_luck = sorted(rows, key=lambda row: _luck(seed, "far", row.id))
    for row in rows:
        for wording in _drawn(_DESCRIBE, _DESCRIBED, seed, row.id):
            yield _describe(row, *wording)
    for nth, (about, order) in enumerate((("near", by_points), ("far", by_luck))):
        for row, other in _absent(order):
            # One wording for a name, whether it is there or not: the words alone tell nothing.
            wording = _drawn(_IS_THERE, 2, seed, other.id)[nth]
            yield _is_there(other, phrase(other.text), wording, there=True, about=about)
            yield _is_there(row, phrase(other.text), wording, there=False, about=about)
    yield from _about_kinds(rows, seed)


def _about_kinds(rows: Sequence[ImageText], seed: int) -> Iterator[Conversation]:
    kinds = {row.id: kind_of(row.id) for row in rows}
    for kind in KINDS:
        own = [row for row in rows if kinds[row.id] == kind]
        others = [row for row in rows if excludes(kinds[row.id], kind)]
        others.sort(key=lambda row: _luck(seed, kind, row.id))
        for number, (row, other) in enumerate(zip(own, others, strict=False)):
            wording = _IS_THERE[number % len(_IS_THERE)]
            yield _is_there(row, kind, wording, there=True, about="kind")
            yield _is_there(other, kind, wording, there=False, about="kind")
        for row in own:
            asked = _drawn(_KIND, 1, seed, row.id)[0]
            meta = {"kind": "answer", "source": "openmoji", "about": "kind", "candidates": KINDS}
            yield _conversation(row, "kind", (asked, kind), meta)


def _absent(order: Sequence[ImageText]) -> list[tuple[ImageText, ImageText]]:
    """Return each row with another one that it does not show; every row is that other one exactly once.

    Each is paired with the next in the order. Where a name holds the other ("cat" and "cat face") two pairs exchange
    their others, the nearest that both can; where none can, the pair is left out.
    """
    others = [order[(place + 1) % len(order)] for place in range(len(order))]
    for place, row in enumerate(order):
        if not _may_show(row, others[place]):
            continue
        for step in range(1, len(order)):
            swap = (place + step) % len(order)
            if not _may_show(row, others[swap]) and not _may_show(order[swap], others[place]):
                others[place], others[swap] = others[swap], others[place]
                break
    return [(row, other) for row, other in zip(order, others, strict=True) if not _may_show(row, other)]


def _may_show(row: ImageText, other: ImageText) -> bool:
    """Tell whether a picture may show what the other is called: all words of a name are among the other's."""
    mine, theirs = _names(row), _names(other)
    return any(one <= two or two <= one for one in mine for two in theirs)


def _names(row: ImageText) -> list[frozenset[str]]:
    return [frozenset(re.findall(r"\w+|#|\*", name.casefold())) for name in (row.text, *row.meta["aliases"])]


def phrase(name: str) -> str:
    """Return a name with its article, where it is likely to take one.

    >>> phrase("red apple"), phrase("angry face"), phrase("chopsticks"), phrase("bus")
    ('a red apple', 'an angry face', 'chopsticks', 'a bus')
    """
    last = name.rpartition(" ")[2]
    if last.endswith("s") and not last.endswith(("ss", "us", "is")):
        return name
    return f"{'an' if _VOWEL.match(name) else 'a'} {name}"


def _describe(row: ImageText, asked: str, said: str) -> Conversation:
    article: Callable[[str], str] = phrase if said != "{}" else str
    answers = tuple(said.format(article(name)) for name in (row.text, *row.meta["aliases"]))
    meta = {"kind": "describe", "source": "openmoji", "about": "name", "answers": answers, "name": row.text}
    return _conversation(row, f"describe/{_DESCRIBE.index((asked, said))}", (asked, answers[0]), meta)


def _is_there(row: ImageText, thing: str, wording: str, *, there: bool, about: str) -> Conversation:
    kind, said = ("present", "yes") if there else ("absent", "no")
    meta = {"kind": kind, "source": "openmoji", "about": about, "candidates": ("no", "yes")}
    return _conversation(row, f"{kind}/{about}/{thing}", (wording.format(thing), said), meta)


def _answer(row: Question, seed: int) -> Conversation:
    asked = _drawn(_ASK, 1, seed, row.id)[0].format(row.question[0].upper() + row.question[1:])
    meta = {"kind": "answer", "source": "easy-vqa", "about": row.group, "candidates": row.answers}
    return _conversation(row, "easy-vqa", (asked, row.answer), meta)


def _conversation(
    row: ImageText | Question, suffix: str, turns: tuple[str, str], meta: Mapping[str, Any]
) -> Conversation:
    asked, said = turns
    messages = (Message("user", asked), Message("assistant", said))
    return Conversation(f"{row.id}/{suffix}", row.picture, messages, split=row.split, meta={"answers": (said,), **meta})


def _balanced(rows: Sequence[Question], wanted: int, seed: int) -> list[Question]:
    """Return about so many questions, of each wording every answer equally often, about as few pictures as do.

    Pictures are drawn until their questions are enough. Drawn one by one, 3,000 questions would be about 2,050 pictures
    instead of 670, each of which has to be encoded, and to be read anew by all layers that are trained.
    """
    by_picture: dict[str, list[Question]] = {}
    cells: dict[str, dict[str, list[Question]]] = {}
    for row in rows:
        by_picture.setdefault(row.picture.digest(), []).append(row)
        cells.setdefault(row.question, {}).setdefault(row.answer, [])
    for picture in sorted(by_picture, key=lambda digest: _luck(seed, "easy-vqa", digest)):
        for row in by_picture[picture]:
            cells[row.question][row.answer].append(row)
        if sum(len(found) * _least(found) for found in cells.values()) >= wanted:
            break
    taken = [row for found in cells.values() for some in found.values() for row in some[: _least(found)]]
    return sorted(taken, key=lambda row: row.id)


def _least(found: Mapping[str, Sequence[Question]]) -> int:
    return min(map(len, found.values()))


def _luck(seed: int, *words: str) -> str:
    return hashlib.sha256("\0".join([str(seed), *words]).encode()).hexdigest()


def _drawn(wordings: Sequence[Any], n: int, seed: int, key: str) -> list[Any]:
    """Return n different wordings, drawn by a hash."""
    return sorted(wordings, key=lambda wording: _luck(seed, key, str(wording)))[:n]
