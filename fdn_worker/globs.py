"""Glob patterns of outputs: `?` and `*` stay within a folder, `**` crosses folders, `**/` also stands for no folder at all.

A pattern comes from afar, and a file's name from its task, so a match takes time that is linear in both, whatever
they hold: no regular expression, whose backtracking could keep the whole worker busy.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|[^*?]+")


class Glob:
    """A pattern, ready to match."""

    def __init__(self, pattern: str) -> None:
        self._tokens: list[str] = _TOKEN.findall(pattern)

    def matches(self, path: str) -> bool:
        """Whether the pattern stands for the whole path.

        The bits of `reached` are the places in the path to which the tokens so far can lead; each token moves all at once.
        """
        end = 1 << len(path)
        slashes = _places(path, "/")
        inside = (end - 1) & ~slashes
        reached = 1
        for token in self._tokens:
            # every place from the first one on
            onward = (2 * end - 1) & -(reached & -reached)
            if token == "**":
                reached = onward
            elif token == "**/":
                reached |= (slashes & onward) << 1
            elif token == "*":
                # an addition carries each bit through the run of ones on its right, to the folder's end
                reached |= ((reached & inside) + inside) ^ inside
            elif token == "?":
                reached = (reached & inside) << 1
            else:
                reached = (reached & _places(path, token)) << len(token)
            if not reached:
                return False
        return bool(reached & end)


def _places(path: str, text: str) -> int:
    """A bit for each place at which `text` begins."""
    places, at = 0, path.find(text)
    while at >= 0:
        places |= 1 << at
        at = path.find(text, at + 1)
    return places
