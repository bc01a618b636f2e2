"""A page of tables and pictures in one file that loads no other."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import jinja2
import numpy as np
from matplotlib.figure import Figure

from selavpr_ros.text import flatten

PAGE = 'report.html'
PHOTO_WIDTH = 480  # pixels
PHOTO_QUALITY = 80  # of JPEG
FIGURE_QUALITY = 88  # of a figure that is made of photos


@dataclass(frozen=True)
class Picture:
    """A picture with a caption.

    Attributes:
        source: data: URI; if empty, only the caption is shown.
        verdict: whether the picture is a right answer, shown as the colour of its frame; None
            draws no frame.
    """

    source: str
    caption: str = ''
    verdict: bool | None = None


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        text: below the title.
        table: rows, the first one is the head.
        texts: number of leading columns of the table that hold text.
        pictures: rows of pictures side by side.
    """

    title: str
    text: str = ''
    table: Sequence[Sequence[str]] = ()
    texts: int = 1
    pictures: Sequence[Sequence[Picture]] = ()


def _source(kind: str, data: bytes) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def png_of(figure: Figure) -> bytes:
    """A drawing as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png')
    return buffer.getvalue()


def png_source(png: bytes) -> str:
    """A PNG file as a data: URI."""
    return _source('png', png)


def _jpeg(pixels: np.ndarray, quality: int) -> str:
    """(H, W, 3) uint8 in OpenCV's order."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return _source('jpeg', cv2.imencode('.jpg', pixels, options)[1].tobytes())


def shrunk(image: np.ndarray, width: int) -> np.ndarray:
    """An image (H, W, 3), made smaller if it is wider than this many pixels."""
    height, full_width = image.shape[:2]
    if full_width <= width:
        return image
    size = (width, max(1, round(width * height / full_width)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def photo_source(image: np.ndarray) -> str:
    """An (H, W, 3) uint8 RGB image, made small, as a data: URI."""
    return _jpeg(shrunk(image, PHOTO_WIDTH)[..., ::-1], PHOTO_QUALITY)


def photo_figure_source(png: bytes) -> str:
    """A drawing with photos in it, smaller than its PNG file, as a data: URI."""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return _jpeg(pixels, FIGURE_QUALITY)


def facts_section(facts: Mapping[str, Any], more: Iterable[tuple[str, str]] = ()) -> Section:
    """Settings and versions as a table; `more` are further names and values for its end."""
    return Section('Settings and versions', texts=2,
                   table=[('name', 'value'), *flatten(facts), *more])


def render(title: str, summary: str, sections: Sequence[Section]) -> str:
    """The whole page; all texts are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('selavpr_ros', 'evaluation'), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template('page.html')
    return page.render(title=title, summary=summary, sections=sections)
