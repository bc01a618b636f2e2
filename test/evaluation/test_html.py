"""What a page holds, as a parser sees it."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

import cv2
import numpy as np
from matplotlib.figure import Figure

from selavpr_ros.evaluation.html import (
    Picture,
    Section,
    facts_section,
    photo_figure_source,
    photo_source,
    png_of,
    png_source,
    render,
)


class Reader(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if data.strip():
            self.words.append(data.strip())


def pixels(source: str, kind: str) -> np.ndarray:
    head, data = source.split(',')
    assert head == f'data:image/{kind};base64'
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)


def test_photos_are_made_small_and_keep_their_colours():
    red = np.zeros((500, 1000, 3), np.uint8)
    red[..., 0] = 200
    photo = pixels(photo_source(red), 'jpeg')
    assert photo.shape == (240, 480, 3)
    assert np.abs(photo.mean((0, 1)) - (0, 0, 200)).max() < 3
    assert pixels(photo_source(red[:10, :20]), 'jpeg').shape == (10, 20, 3)
    drawn = photo_figure_source(cv2.imencode('.png', red[..., ::-1])[1].tobytes())
    assert pixels(drawn, 'jpeg').shape == (500, 1000, 3)
    assert np.abs(pixels(drawn, 'jpeg').mean((0, 1)) - (0, 0, 200)).max() < 3


def test_drawings():
    png = png_of(Figure(figsize=(2, 1), dpi=100))
    assert pixels(png_source(png), 'png').shape == (100, 200, 3)


def test_a_page_loads_nothing_and_escapes_everything():
    words = '<script>alert("1 & 2")</script>'
    picture = Picture('data:image/png;base64,AAAA', words, True)
    page = render(words, words, [
        Section(words, words, [('name', words), (words, '1')], 1, [[picture, Picture('', 'no')]])])
    read = Reader(page)
    assert '<script' not in page
    assert read.words.count(words) == 9  # every place that a word can come to
    sources = [attrs[name] for _, attrs in read.tags for name in ('src', 'href') if name in attrs]
    assert sources == ['#part1', 'data:image/png;base64,AAAA']
    assert 'http' not in page
    assert ('figure', {'class': 'true'}) in read.tags
    assert [attrs.get('class') for tag, attrs in read.tags if tag in ('th', 'td')] == [
        None, 'number', None, 'number']


def test_settings_are_told_by_dotted_name():
    facts = {'bag': 'a.bag', 'versions': {'torch': '2', 'gates': {'x': None}}}
    assert list(facts_section(facts, [('z', '1')]).table) == [
        ('name', 'value'), ('bag', 'a.bag'), ('versions.torch', '2'), ('versions.gates.x', 'None'),
        ('z', '1')]
