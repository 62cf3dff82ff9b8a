"""README: its session is a tested transcript, its picture a real one, and it is short.

`python -m tests.test_readme` writes these parts anew.
"""

from __future__ import annotations

import re

from docs import make
from tests.support import ROOT

README = ROOT / "README.md"


def session(name: str) -> str:
    """A transcript that README shows."""
    return "```\n" + (ROOT / f"tests/transcripts/{name}.txt").read_text(encoding="utf-8") + "```"


def rewritten(text: str) -> str:
    """README with these parts as they should be."""
    for start, part in (("transcript: readme", session("readme")),):
        pattern = re.compile(rf"(<!-- {re.escape(start)} -->\n)(?:.*?\n)??(<!-- end -->)", re.DOTALL)
        assert pattern.search(text), start
        text = pattern.sub(lambda match, part=part: f"{match[1]}{part}\n{match[2]}", text)
    return text


def test_readme_shows_the_transcript() -> None:
    text = README.read_text(encoding="utf-8")
    assert rewritten(text) == text
    assert len(text.splitlines()) <= 110, "two screens"


def test_the_picture_is_what_the_screen_shows() -> None:
    assert make.svg(make.PICTURES["nnrepl"]) == make.README_PICTURE.read_text(encoding="utf-8")


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8")
    make.README_PICTURE.write_text(make.svg(make.PICTURES["nnrepl"]), encoding="utf-8")
