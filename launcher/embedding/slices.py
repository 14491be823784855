"""Where a long text may be cut so that its parts give the tokens that the whole gives.

BERT's tokenization (Devlin et al. 2018, ``BasicTokenizer``) ends a word at white space and around each Chinese character,
and nothing reaches across such a place. Only the plainest white space counts here: rarer kinds may be removed as control
characters, which joins what they stood between.
"""

from __future__ import annotations

import re

PLACE = re.compile(r"[ \t\n\r\u4e00-\u9fff]")


def slice_bounds(text: str, size: int) -> list[tuple[int, int]]:
    """Start and end of consecutive slices of at least ``size`` characters (the last may be shorter)."""
    bounds = []
    start = 0
    while start < len(text):
        place = PLACE.search(text, start + size - 1)
        end = place.end() if place else len(text)
        bounds.append((start, end))
        start = end
    return bounds
