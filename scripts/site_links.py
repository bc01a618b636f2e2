"""A hook of mkdocs: in the site, links that lead out of docs/ become plain text.

In a browser of the repository such a link leads to the file, but the site holds only the pages. A
link to a missing file is left as it is, so that a strict build fails.
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
