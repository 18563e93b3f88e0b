"""Metrics as Measurements: sample size, interval, baseline and method with every number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kit.data.picture import Picture
from kit.errors import DataError
from kit.evaluation.metrics import class_vectors, predictions, ranks
from kit.intervals import bootstrap, exact
from kit.models.encode import PrefixEncoder, Prefixes, embed
from kit.result import Measurement

TEMPLATES = ("{}", "a picture of a {}", "an icon of a {}", "a drawing of a {}")
CUTOFFS = (1, 5, 10)


def retrieval(
    similarities: Sequence[Tensor],
    *,
    split: str,
    clusters: Sequence[str] | None = None,
    asking: Sequence[int] | None = None,
    prefix: str = "",
) -> dict[str, Measurement]:
    """Return recall@1, 5, 10 and the median rank, from texts to pictures and back.

    Args:
        similarities: Text-by-picture scores, each of shape (n, n), row i belonging to column i; one matrix per
            training seed. Several seeds are averaged query by query before the interval is made, so that the
            interval speaks of new queries and not of three copies of the same ones.
        split: The data it was measured on.
        clusters: One label per row, where rows are not independent (pictures of one concept); shape (n,).
        asking: Rows that count as queries; all are searched. None for all. What is asked of a subset says how the
            whole comes about: pictures with a look-alike in training, and those without.
        prefix: Put before every name: ``flags_recall_at_1``.

    Returns:
        ``recall_at_k`` finds the picture from the text; ``image_to_text_recall_at_k`` the text from the picture.
        Baselines are those of a random order.

    Raises:
        DataError: no matrix.
        ValueError: a matrix that is not square.
    """
    if not similarities or (asking is not None and not len(asking)):
        raise DataError.of("retrieval", "no similarities or no queries were given", "check seeds, data and limit")
    if clusters is not None and asking is not None:
        clusters = [clusters[row] for row in asking]
    found = {}
    for direction, turned in (("", False), ("image_to_text_", True)):
        by_seed = torch.stack([ranks(matrix.T if turned else matrix) for matrix in similarities]).double()
        items = by_seed.shape[1]
        if asking is not None:
            by_seed = by_seed[:, list(asking)]
        n = by_seed.shape[1]
        method = f"mean of {len(similarities)} seeds, " if len(similarities) > 1 else ""
        for k in CUTOFFS:
            hits = (by_seed <= k).double().mean(0).numpy()
            # Where all or none were found a bootstrap has no width, which would promise too much of few queries.
            even = hits.min() == hits.max() and hits[0] in {0.0, 1.0}
            interval = exact(round(hits.sum()), n) if even else bootstrap(hits, clusters=clusters)
            found[f"{prefix}{direction}recall_at_{k}"] = Measurement(
                float(hits.mean()), "share", n, interval.low, interval.high, method=method + interval.method,
                baseline=min(1.0, k / items), split=split,
            )  # fmt: skip
        mean_rank = by_seed.mean(0).numpy()
        method = f"median over queries of their mean rank in {len(similarities)} seeds, " if method else ""
        interval = bootstrap(mean_rank, statistic="median", clusters=clusters)
        found[f"{prefix}{direction}median_rank"] = Measurement(
            float(np.median(mean_rank)), "rank", n, interval.low, interval.high, method=method + interval.method,
            baseline=(items + 1) / 2, split=split, better="lower",
        )  # fmt: skip
    return found


def zero_shot(
    encoder: PrefixEncoder,
    pictures: Sequence[Picture],
    labels: Sequence[str],
    *,
    split: str,
    templates: Sequence[str] = TEMPLATES,
) -> Measurement:
    """Return the share of pictures whose own label, in words, is the nearest one.

    Args:
        encoder: The dual encoder.
        pictures: What is to be labelled, n of them.
        labels: The right label of each, shape (n,); the classes are the distinct labels.
        split: The data it was measured on.
        templates: Prompts with ``{}`` for the label; a class is the mean of its prompts' vectors.

    Returns:
        Accuracy with its exact interval. The baseline is the majority class, which is never below chance.

    Raises:
        DataError: no pictures, unequal lengths, fewer than two classes, or a template without ``{}``.

    Source:
        Radford et al. (2021), section 3.1.4, arXiv:2103.00020.
    """
    classes = sorted(set(labels))
    if not pictures or len(pictures) != len(labels) or len(classes) < 2:
        what = (
            f"needs pictures with at least two classes, got {len(pictures)} and {len(labels)} labels of {len(classes)}"
        )
        raise DataError.of("zero_shot", what)
    bad = [template for template in templates if "{}" not in template]
    if bad or not templates:
        what = f"no place for the label in {bad}" if bad else "there are none"
        raise DataError.of("zero_shot: templates", what, "write '{}' into each")
    prompts = [template.format(label) for label in classes for template in templates]
    prefixes = Prefixes(encoder.images(pictures), encoder.texts(prompts))
    image, text = embed(encoder.encoder, prefixes)
    guessed = predictions(image, class_vectors(text, len(templates)))
    right = sum(classes[int(guess)] == label for guess, label in zip(guessed, labels, strict=True))
    interval = exact(right, len(labels))
    majority = Counter(labels).most_common(1)[0][1] / len(labels)
    return Measurement(
        right / len(labels), "share", len(labels), interval.low, interval.high,
        method=f"{len(classes)} classes, {len(templates)} prompts each; {interval.method}",
        baseline=majority, split=split,
    )  # fmt: skip
