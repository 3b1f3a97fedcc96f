"""Links and pictures of a markdown text: do their targets exist, have the pictures words?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

FENCED = re.compile(r"^```.*?^```", re.S | re.M)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)[^)]*\)")


def broken_links(text: str, folder: Path) -> Iterator[str]:
    """Problems of the links in a markdown text that lies in `folder`."""
    text = FENCED.sub("", text)
    for picture, words, target in LINK.findall(text):
        if picture and not words.strip():
            yield f"{target}: no alt text"
        if not target.startswith(("http://", "https://", "#", "mailto:")):
            if not os.path.exists(os.path.normpath(folder / target.split("#")[0])):
                yield f"{target}: no such file"
    for tag in re.findall(r"<img\b[^>]*>", text):
        source = re.search(r'src="([^"]+)"', tag)
        if not source or not (folder / source[1]).exists():
            yield f"{tag}: no such file"
        if not re.search(r'alt="[^"]+"', tag):
            yield f"{tag}: no alt text"
