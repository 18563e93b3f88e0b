"""What copies are compared on where no rows are given: the same short conversations everywhere, half with a picture."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from kit.data.picture import Picture
from kit.data.rows import Conversation, Message

_SHAPES = ("circle", "rectangle", "triangle")
_COLOURS = ("red", "green", "blue", "yellow")
_TALKS = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("How many legs has a spider?", "A spider has eight legs."),
    ("Write the first sentence of a story.", "Once upon a time there was a miller who had three sons and a cat."),
    ("What is water made of?", "Water is made of hydrogen and oxygen."),
    ("Why is the sky blue?", "Because air scatters blue light more than it scatters red light."),
    ("Name three fruits.", "Apples, pears and plums."),
    ("What does a baker do?", "A baker makes bread, rolls and cakes, mostly early in the morning."),
    ("Is seven a prime number?", "Yes, seven is a prime number: only one and seven divide it."),
)


def fixed_probes() -> tuple[Conversation, ...]:
    """Return 20 conversations: 12 about drawn shapes, 8 without a picture. They never change."""
    drawn = [
        Conversation(
            f"{colour} {shape}",
            _picture(shape, colour),
            (Message("user", "What does the picture show?"), Message("assistant", f"It shows a {colour} {shape}.")),
        )
        for shape in _SHAPES
        for colour in _COLOURS
    ]
    plain = [
        Conversation(question, None, (Message("user", question), Message("assistant", answer)))
        for question, answer in _TALKS
    ]
    return (*drawn, *plain)


def _picture(shape: str, colour: str) -> Picture:
    image = Image.fromarray(np.full((64, 64, 3), 230, np.uint8))
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse((16, 16, 48, 48), fill=colour)
    elif shape == "rectangle":
        draw.rectangle((14, 20, 50, 44), fill=colour)
    else:
        draw.polygon([(32, 12), (12, 50), (52, 50)], fill=colour)
    file = io.BytesIO()
    image.save(file, "PNG")
    content = file.getvalue()
    return Picture(f"a drawn {colour} {shape}", reader=lambda: content)
