"""A hook of mkdocs: what the pages of docs/ link to outside of docs/ is plain text in the site.

Where the repository is browsed, such a link leads to the file; the site holds the pages alone. A
link to a file that is not there is left as it is, and so ends a strict build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / 'docs'
LINK = re.compile(r'\[([^]]+)\]\((\.\./[^)#]+)[^)]*\)')


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with the text of each page."""
    return LINK.sub(lambda link: link[1] if (DOCS / link[2]).exists() else link[0], markdown)
