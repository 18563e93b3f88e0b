"""Normalisation by the rules that SQuAD and the VQA challenge publish."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.evaluation.normalise import squad, vqa


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        ("The circle.", "circle"),
        ("  a  RED\napple ", "red apple"),
        ("theatre", "theatre"),
        ("it's 3.5", "its 35"),
        ("an", ""),
        ("", ""),
    ],
)
def test_squad(said, plain):
    assert squad(said) == plain


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        ("Yes.", "yes"),
        ("Two", "2"),
        ("none", "0"),
        ("The man", "man"),
        ("dont know", "don't know"),
        ("girl's", "girl's"),
        ("girl’s", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("100,978", "100978"),
        ("red, white", "red white"),
        ("red,white", "red white"),
        ("black/white", "black white"),
        ("3.5.", "3.5"),
        (".5", ".5"),
        ("U.S.A.", "usa"),
        ("t-shirt", "t shirt"),
        ("wont, we're", "won't we're"),
        ("were well", "were well"),
        ("\tno\n", "no"),
    ],
)
def test_vqa(said, plain):
    assert vqa(said) == plain


@given(st.text(alphabet="aA the.,'’:!?-_ 105two\n", max_size=30))
def test_vqa_leaves_no_case_and_no_blanks(said):
    plain = vqa(said)
    assert plain == " ".join(plain.lower().split())
    assert not {"a", "an", "the", "two"} & set(plain.split())
