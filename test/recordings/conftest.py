from __future__ import annotations

import pytest


@pytest.fixture
def write(tmp_path):
    """(text) -> path of a parameter file."""
    def write(text: str):
        path = tmp_path / 'params.yaml'
        path.write_text(text)
        return path

    return write
