"""Answer: what a command says, to a program or a notebook."""

from __future__ import annotations

from rich.console import RenderableType

from nnrepl.tape import Face

WIDTH = 100
"""How many columns text has in a notebook, and in `str()`."""


class Answer(Face):
    """What a command says: `print()`, rich and notebooks show it. Empty (and false) where there is nothing to say.

    Attributes:
        renderable: What rich renders, with the styles of `nnrepl.view.theme`; None for nothing.
        theme: "dark" or "light".
    """

    def __init__(self, renderable: RenderableType | None, theme: str = "dark") -> None:
        self.renderable = renderable
        self.theme = theme

    def __bool__(self) -> bool:
        return self.renderable is not None

    def __repr__(self) -> str:
        return str(self)
