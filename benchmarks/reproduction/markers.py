"""Pages whose sections between markers are written by programs, all other words by hand."""

from __future__ import annotations


def between(text: str, name: str, content: str) -> str:
    """The text with what stands between two markers replaced; a new section when there is none."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if start not in text:
        text = f"{text.rstrip()}\n\n{start}\n{end}\n"
    before, rest = text.split(start, 1)
    after = rest.split(end, 1)[1]
    return f"{before}{start}\n{content}\n{end}{after}"
