"""A tokenizer's tables for the browser: what JavaScript needs in order to split words exactly as Python does."""

from __future__ import annotations

import html.entities
import json
from collections.abc import Callable, Iterable
from typing import Any

from kit.errors import BundleError, KitError
from kit.models.dual_encoder import ClipEncoder

_ALL = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]  # halves of surrogate pairs are no characters


def words_settings(encoder: ClipEncoder) -> dict[str, Any]:
    """Return the settings of ``tokenizer.js`` for an encoder's tokenizer.

    Raises:
        BundleError: a tokenizer that is neither BERT's WordPiece nor open_clip's own byte pairs.
    """
    from open_clip import SimpleTokenizer  # type: ignore[import-untyped]

    tokenizer = encoder.tokenizer
    made = _byte_pairs(tokenizer) if isinstance(tokenizer, SimpleTokenizer) else _word_piece(tokenizer, encoder.name)
    return {**made, "context": int(tokenizer.context_length), "clean": _cleaning()}


def _refused(name: str, what: str) -> KitError:
    fix = "kit space build without --static, which runs the bundle's own tokenizer"
    allowed = "A static Space splits words by BERT's WordPiece or open_clip's own byte pairs."
    return BundleError.of(name, f"its tokenizer cannot run in a browser: {what}", fix, allowed)


def _byte_pairs(tokenizer: Any) -> dict[str, Any]:
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    special = ["<start_of_text>", "<end_of_text>"]
    if sorted(tokenizer.all_special_ids) != [tokenizer.encoder[one] for one in special] or tokenizer.reduction_fn:
        raise _refused("open_clip", "it has tokens of its own, or drops some")
    import regex  # type: ignore[import-untyped]

    characters = "".join(map(chr, _ALL))
    classes = {
        name: [ord(one) for run in regex.findall(pattern, characters, regex.IGNORECASE) for one in (run[0], run[-1])]
        for name, pattern in (("letters", r"\p{L}+"), ("numbers", r"\p{N}+"))
    }
    return {"kind": "byte pairs", "merges": "\n".join(map(" ".join, merges)), "special": special, **classes}


def _word_piece(tokenizer: Any, name: str) -> dict[str, Any]:
    inner = getattr(getattr(tokenizer, "tokenizer", None), "backend_tokenizer", None)
    if inner is None:
        raise _refused(name, type(tokenizer).__name__)
    said = json.loads(inner.to_str())
    model, normalizer = said["model"], said["normalizer"] or {}
    kinds = (model["type"], normalizer.get("type"), (said["pre_tokenizer"] or {}).get("type"))
    if kinds != ("WordPiece", "BertNormalizer", "BertPreTokenizer"):
        raise _refused(name, " on ".join(str(kind) for kind in kinds if kind))
    if tokenizer.tokenizer_mode or tokenizer.strip_sep_token:
        raise _refused(name, "it is used in a mode of its own")
    begin, end = (tokenizer.tokenizer.cls_token_id, tokenizer.tokenizer.sep_token_id)
    if tokenizer.tokenizer("").input_ids != [begin, end]:
        raise _refused(name, "it puts other tokens than CLS and SEP around a text")
    ids = model["vocab"]
    vocabulary = sorted(ids, key=ids.__getitem__)
    lower, strips = bool(normalizer["lowercase"]), normalizer["strip_accents"]
    return {
        "kind": "wordpiece",
        "vocabulary": "\n".join(vocabulary),
        "special": [one["content"] for one in said["added_tokens"] if one["special"]],
        "begin": [begin],
        "end": [end],
        "pad": tokenizer.tokenizer.pad_token_id,
        "unknown": ids[model["unk_token"]],
        "prefix": model["continuing_subword_prefix"],
        "longest": model["max_input_chars_per_word"],
        "lower": lower,
        "strips": lower if strips is None else bool(strips),
        **_characters(inner.normalizer.normalize_str, inner.pre_tokenizer.pre_tokenize_str),
    }


def _characters(normalized: Callable[[str], str], split: Callable[[str], list[Any]]) -> dict[str, list[int]]:
    """Return which characters are dropped, become a space, stand apart, or split words: asked of the library itself.

    Its tables are those of an old Unicode, a browser's those of a new one. All 1.1 million characters take 3 s.
    """
    dropped, blank, apart, punctuation = [], [], [], []
    for code in _ALL:
        one = chr(code)
        became = normalized(one)
        if not became:
            dropped.append(code)
        elif became == " ":
            blank.append(code)
        elif became[0] == became[-1] == " ":
            apart.append(code)
        if len(split(f"a{one}a")) == 3:
            punctuation.append(code)
    found = {"dropped": dropped, "blank": blank, "apart": apart, "punctuation": punctuation}
    return {name: _ranges(codes) for name, codes in found.items()}


def _ranges(codes: Iterable[int]) -> list[int]:
    """Return first, last, first, last … of runs of numbers in order.

    >>> _ranges([1, 2, 3, 7])
    [1, 3, 7, 7]
    """
    flat: list[int] = []
    for code in codes:
        if flat and flat[-1] == code - 1:
            flat[-1] = code
        else:
            flat += [code, code]
    return flat


def _cleaning() -> dict[str, Any]:
    """Return the tables of what open_clip does to every text first: ftfy's and HTML's."""
    from ftfy import chardata

    replaced = {**chardata.LIGATURES, **chardata.WIDTH_MAP}
    for sign, pattern in (("'", chardata.SINGLE_QUOTE_RE), ('"', chardata.DOUBLE_QUOTE_RE)):
        replaced |= dict.fromkeys(map(ord, pattern.findall("".join(map(chr, range(0x3000))))), sign)
    return {
        "named": dict(chardata.HTML_ENTITIES),
        "html5": dict(html.entities.html5),
        "replaced": {chr(code): text for code, text in replaced.items()},
        "controls": "".join(chr(code) for code in chardata.CONTROL_CHARS),
    }
