"""Answers made comparable: case, punctuation, articles, and for VQA also number words and contractions."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from types import MappingProxyType

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS: Mapping[str, str] = MappingProxyType({word: str(n) for n, word in enumerate(_NUMBERS)} | {"none": "0"})
# Without he'll, I'd, I'll, it's, let's, she'd, she'll, we'd, we'll, we're: with no apostrophe they are other words.
_CONTRACTED = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he's how'd how's i'm i've isn't
    it'd it'll might've mightn't must've mustn't needn't o'clock oughtn't shan't should've shouldn't somebody's
    someone's something's that's there'd there's they'd they'll they're they've wasn't we've weren't what'll what's
    when's where'd where's who'd who'll who's why's won't would've wouldn't y'all you'd you'll you're you've
"""
_CONTRACTIONS: Mapping[str, str] = MappingProxyType({word.replace("'", ""): word for word in _CONTRACTED.split()})
_COMMA_IN_NUMBER = re.compile(r"(?<=\d),(?=\d)")
_POINT = re.compile(r"\.(?!\d)")  # a point that is no decimal point
_VQA_PUNCTUATION = re.compile(r"[^\w\s.:']|_")  # a colon tells the time, an apostrophe a possessive


def squad(text: str) -> str:
    """Return an answer as SQuAD compares it: lower case, without punctuation, articles and extra blanks.

    >>> squad("The  red, apple!")
    'red apple'

    Source:
        Rajpurkar et al. (2016), section 6.1, arXiv:1606.05250.
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def vqa(text: str) -> str:
    """Return an answer as the VQA challenge compares it.

    Lower case; no points but decimal ones; number words as digits; no articles; contractions with their apostrophe;
    other punctuation as a blank, but none between digits. These are the rules that the challenge states; its script
    departs from them in rare cases.

    >>> vqa("Two dogs, at 2:50"), vqa("The girl's."), vqa("1,000.5"), vqa("dont")
    ('2 dogs at 2:50', "girl's", '1000.5', "don't")

    Source:
        Antol et al. (2015), arXiv:1505.00468; https://visualqa.org/evaluation.html.
    """
    plain = text.lower().replace("’", "'")
    plain = _VQA_PUNCTUATION.sub(" ", _POINT.sub("", _COMMA_IN_NUMBER.sub("", plain)))
    words = [_DIGITS.get(word, _CONTRACTIONS.get(word, word)) for word in plain.split()]
    return " ".join(word for word in words if word not in {"a", "an", "the"})
