"""A dual encoder that finds pictures by words and tells which of some labels fits a picture."""

from __future__ import annotations

import hashlib
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from kit.data.picture import Picture
from kit.errors import DataError, Fault, ModelError
from kit.evaluation.metrics import class_vectors
from kit.evaluation.scores import TEMPLATES
from kit.models.dual_encoder import ClipEncoder
from kit.sharing.nearest import Vectors
from kit.sharing.shelf import Shelf

# Pictures that are read before they can be found: few at first, for whoever asks at once waits for them (8 bits read 80
# a second on two cores), and then more.
FIRST, CHUNK = 32, 256
PATIENCE_S = 20.0  # how long the first question waits for the first pictures
END_S = 15.0  # how long an end waits for a chunk that is being read


@dataclass(frozen=True)
class Found:
    """A picture that was found: its place on the shelf, and the cosine of its vector and the words'."""

    place: int
    score: float


@dataclass(eq=False)
class Finder:
    """A dual encoder with the pictures that it finds.

    Args:
        encoder: The model.
        shelf: The pictures.
        name: What visitors call the model.
    """

    encoder: ClipEncoder
    shelf: Shelf
    name: str
    vectors: Vectors = field(init=False)
    _some: threading.Event = field(default_factory=threading.Event, init=False, repr=False)
    _closed: threading.Event = field(default_factory=threading.Event, init=False, repr=False)
    _held_out: Tensor = field(init=False, repr=False)
    _thread: threading.Thread | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.vectors = Vectors(self.encoder.embed_dim)
        self._held_out = torch.tensor([not item.trained_on for item in self.shelf.items])

    def start(self) -> None:
        """Read the pictures in a thread of its own: the page answers from those that were read so far."""
        self._thread = threading.Thread(target=self._read, daemon=True, name="kit-read")
        self._thread.start()

    def close(self) -> None:
        """Stop reading, and wait for its end: an interpreter that ends within onnxruntime's work is aborted."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(END_S)

    def take(self, vectors: Tensor) -> None:
        """Take the pictures' vectors as they were kept, shape (n, d).

        Raises:
            DataError: another number of them than of pictures, or of another width.
        """
        if vectors.shape != (len(self.shelf), self.vectors.width):
            what = f"holds vectors of shape {tuple(vectors.shape)} for {len(self.shelf)} pictures"
            raise DataError(Fault("vectors", what, "build the folder again"))
        self.vectors.add(vectors)
        self._some.set()

    def find(self, words: str, k: int, *, held_out: bool = False) -> list[Found]:
        """Return the k pictures nearest to some words, nearest first.

        Args:
            words: What is looked for.
            k: How many pictures.
            held_out: Only among pictures that were not trained on.

        Raises:
            DataError: no picture was read yet.
        """
        if not self._some.wait(PATIENCE_S):
            raise DataError(Fault("The pictures", "are still being read", "try again in some seconds"))
        found = self.vectors.top(self._query(words), k, among=self._held_out if held_out else None)
        return [Found(place, score) for place, score in found]

    @torch.inference_mode()
    def _query(self, words: str) -> Tensor:
        tokens = self.encoder.tokenize([words]).to(self.encoder.device)
        return self.encoder.encode_text(tokens)[0].cpu()

    def label(self, image: Image.Image, labels: Sequence[str]) -> dict[str, float]:
        """Return each label's share of a softmax over cosines, at the model's own temperature; they sum to 1.

        Source:
            Radford et al. (2021), section 3.1.4, arXiv:2103.00020.
        """
        with torch.inference_mode():
            prompts = [template.format(label) for label in labels for template in TEMPLATES]
            tokens = self.encoder.tokenize(prompts).to(self.encoder.device)
            classes = class_vectors(self.encoder.encode_text(tokens).cpu(), len(TEMPLATES))
            pixels = self.encoder.preprocess(image)[None].to(self.encoder.device)
            logits = classes @ self.encoder.encode_image(pixels)[0].cpu()
            scale = self.encoder.clip.logit_scale.exp().clamp(max=100).cpu()  # type: ignore[operator]
            shares = (logits * scale).softmax(0)
        return dict(zip(labels, shares.tolist(), strict=True))

    def warm(self) -> None:
        """Do once all that a first visitor's search does: its words, and a search among some vectors."""
        query = self._query("a cat")
        some = Vectors(self.vectors.width)
        some.add(query.repeat(2, 1))
        some.top(query, 1, among=torch.tensor([True, False]))

    def read(self) -> None:
        """Read the pictures, so that each can be found."""
        encode = picture_encoder(self.encoder)
        start, size = 0, FIRST
        while start < len(self.shelf) and not self._closed.is_set():
            self.vectors.add(encode([item.picture for item in self.shelf.items[start : start + size]]))
            self._some.set()
            start, size = start + size, min(2 * size, CHUNK)

    def _read(self) -> None:
        try:
            self.read()
            for place in range(len(self.shelf)):  # small copies: a gallery of twelve takes 60 ms to draw
                if self._closed.is_set():
                    return
                self.shelf.copy(place)
        except Exception as error:  # noqa: BLE001 - nobody waits for this thread; the owner must see why nothing is found
            if not self._closed.is_set():
                traceback.print_exception(error, file=sys.stderr)


def picture_encoder(encoder: ClipEncoder) -> Callable[[Sequence[Picture]], Tensor]:
    """Return what makes unit vectors, shape (n, d), of pictures.

    kit keeps what does not change: what lies below the projections, and the vectors themselves where an export's
    digest says that they are the same.
    """
    from kit.models.activations import ActivationStore, Array
    from kit.models.cut import DualEncoderTail
    from kit.models.encode import PrefixEncoder

    def plainly(pictures: Sequence[Picture]) -> Tensor:
        pixels = torch.stack([encoder.preprocess(picture.open()) for picture in pictures])
        return encoder.encode_image(pixels.to(encoder.device)).cpu()

    if digest := getattr(encoder.clip, "digest", ""):
        key = hashlib.sha256(f"picture vectors|{digest}".encode()).hexdigest()
        store = ActivationStore()

        @torch.inference_mode()
        def kept(pictures: Sequence[Picture]) -> Tensor:
            def made(places: Sequence[int]) -> Iterator[Array]:
                yield plainly([pictures[place] for place in places]).numpy()

            return store.fetch(key, [one.digest() for one in pictures], made).all()

        return kept
    with suppress(ModelError):  # a tower without a projection to cut at
        frozen, tail = PrefixEncoder(encoder), DualEncoderTail(encoder).eval()
        return torch.inference_mode()(
            lambda pictures: tail.images(frozen.images(pictures).all().to(encoder.device)).cpu()
        )
    return torch.inference_mode()(plainly)


def save_vectors(path: Path, vectors: Vectors) -> None:
    """Write a shelf's vectors, float16."""
    save_file({"pictures": vectors.all().contiguous()}, path)


def read_vectors(path: Path) -> Tensor:
    """Return what ``save_vectors`` wrote.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return load_file(path)["pictures"]
    except Exception as error:
        raise DataError(Fault(str(path), f"cannot be read: {error}", "build the folder again")) from error
