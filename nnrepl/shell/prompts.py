"""Prompts: what stands before a typed line."""

from __future__ import annotations

PROMPT = "(nnrepl) "


def prompt_of(number: int) -> str:
    """Return what stands before the line: `(nnrepl 3) ` where Python is the program's next cell, `prompt 3`."""
    return f"(nnrepl {number}) " if number else PROMPT


def continued(text: str, prompt: str) -> str:
    """Lines that belong together, as they stand after a prompt."""
    return text.replace("\n", "\n" + "... ".rjust(len(prompt)))
