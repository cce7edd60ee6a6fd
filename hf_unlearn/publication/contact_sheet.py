"""
The contact sheet of found images: an HTML page that stands alone, on which they are kept or left out, and a picture.

Both show the images. They stay on the machine, and only their owner can read them.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image, ImageDraw, ImageFont


TEMPLATE = Path(__file__).parent / "templates" / "contact_sheet.html"
# Longest side of an image on the sheet, in pixels.
SIDE = 110
COLUMNS = 10
GREEN, GREY = (26, 127, 55), (201, 201, 201)


@dataclass
class FoundRow:
    """
    A row of the data that is shown on the sheet.

    Args:
        number (`int`):
            Row number.
        score (`float`):
            How much it is like the examples, at most 1.
        image (`np.ndarray` of shape `(H, W, 3)`):
            uint8.
        sha256 (`str`):
            Of its pixels, see [`~request.image_hash.pixel_sha256`].
        kept (`bool`):
            Whether it is in the request to begin with.
        phash (`str`, *optional*):
            Perceptual hash.
        label (`str`, *optional*):
            Its label in the data.
        copy_of (`str`, *optional*):
            What it is a copy of, in words.
    """

    number: int
    score: float
    image: np.ndarray
    sha256: str
    kept: bool
    phash: str | None = None
    label: str | None = None
    copy_of: str | None = None


def thumbnail(image: np.ndarray) -> Image.Image:
    """An image with a longest side of `SIDE` pixels. One that is smaller is shown with larger pixels."""
    small = Image.fromarray(image)
    factor = SIDE / max(small.size)
    method = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    return small.resize([max(1, round(side * factor)) for side in small.size], method)


def data_url(image: np.ndarray) -> str:
    """A thumbnail as an address that holds the image itself."""
    file = io.BytesIO()
    thumbnail(image).save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def write_html(
    path: Path,
    rows: Sequence[FoundRow],
    examples: Sequence[np.ndarray],
    *,
    threshold: float,
    suggestion: str,
    request: dict[str, Any],
    data_name: str,
) -> None:
    """
    Writes the page. It loads nothing from elsewhere. Its button saves a request file of the rows that were kept.

    Args:
        path (`Path`):
            The file.
        rows (`list[FoundRow]`):
            The most alike first.
        examples (`list[np.ndarray]`):
            RGB values of the examples.
        threshold (`float`):
            The score from which on rows are kept to begin with.
        suggestion (`str`):
            Where the threshold comes from, in a sentence.
        request (`dict`):
            The fields of the request, without those that name images.
        data_name (`str`):
            Name of the data.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        rows=[{**vars(replace(row, image=np.empty(0))), "source": data_url(row.image)} for row in rows],
        examples=[data_url(example) for example in examples],
        threshold=threshold,
        suggestion=suggestion,
        request=request,
        data_name=data_name,
    )
    path.write_text(page, encoding="utf-8")


def write_png(path: Path, rows: Sequence[FoundRow], examples: Sequence[np.ndarray]) -> None:
    """
    Draws the examples in the first row and the found images below them, the most alike first, each with its score and
    row number. Those in the request have a thick green frame.

    Args:
        path (`Path`):
            The file.
        rows (`list[FoundRow]`):
            The most alike first.
        examples (`list[np.ndarray]`):
            RGB values of the examples.
    """
    gap, text, cell = 10, 34, SIDE + 10
    font = ImageFont.load_default(13)
    heads = [list(examples[start : start + COLUMNS]) for start in range(0, len(examples), COLUMNS)]
    lines = -(-len(rows) // COLUMNS)
    top = 24 + len(heads) * (SIDE + gap) + 24
    sheet = Image.new("RGB", (COLUMNS * cell + gap, top + lines * (SIDE + gap + text)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, 4), "Examples", "black", font)
    for line, images in enumerate(heads):
        for column, image in enumerate(images):
            sheet.paste(thumbnail(image), (gap + column * cell, 24 + line * (SIDE + gap)))
    kept = sum(row.kept for row in rows)
    draw.text((gap, top - 22), f"Found; with a green frame, in the request: {kept} of {len(rows)}", "black", font)
    for place, row in enumerate(rows):
        x, y = gap + place % COLUMNS * cell, top + place // COLUMNS * (SIDE + gap + text)
        image = thumbnail(row.image)
        sheet.paste(image, (x, y))
        corner = (x + image.width, y + image.height)
        color, width = (GREEN, 4) if row.kept else (GREY, 1)
        draw.rectangle((x - 4, y - 4, corner[0] + 3, corner[1] + 3), outline=color, width=width)
        draw.text((x, y + SIDE + 3), f"{row.score:.3f}", GREEN if row.kept else "black", font)
        draw.text((x, y + SIDE + 17), f"row {row.number}", "black", font)
    sheet.save(path)
