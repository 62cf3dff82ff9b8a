"""Toolbar: one line under the prompt that says where one is. It is made once a stop, not once a key."""

from __future__ import annotations

from typing import NamedTuple

from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.utils import get_cwidth

from nnrepl.session.session import TapeSession
from nnrepl.tape.steps import title_of
from nnrepl.view.source_lines import own_source, place_text
from nnrepl.view.stopped import count_text


class ToolbarItem(NamedTuple):
    """A part of the toolbar; the higher its rank, the sooner it goes when there is no room."""

    text: str
    rank: int
    style: str = ""


class Toolbar:
    """Step, phase, op k of n, module, place, timeline.

    Args:
        session: Whose place is shown.
    """

    def __init__(self, session: TapeSession) -> None:
        self._session = session
        self._known: tuple[object, ...] = ()
        self._pieces: list[ToolbarItem] = []

    def fragments(self, width: int) -> StyleAndTextTuples:
        """As much as fits into a width."""
        pieces = self._now()
        while len(pieces) > 1 and sum(get_cwidth(piece.text) + 3 for piece in pieces) > width:
            last = max(pieces, key=lambda piece: piece.rank)
            pieces = [piece for piece in pieces if piece is not last]
        shown: StyleAndTextTuples = [("", " ")]
        for at, piece in enumerate(pieces):
            shown += [("class:toolbar.dim", " · " if at else ""), (piece.style, piece.text[: max(width - 2, 1)])]
        return shown

    def _now(self) -> list[ToolbarItem]:
        session = self._session
        known = (session.cursor, len(session.tape), len(session.work), id(session.tape), session.running)
        if known != self._known:
            self._known, self._pieces = known, self._make()
        return self._pieces

    def _make(self) -> list[ToolbarItem]:
        session = self._session
        pass_, op = session.pass_, session.op
        if pass_ is None:
            return [ToolbarItem("no op yet", 0)]
        phase = op.phase if op is not None else "end"
        strong = "class:toolbar.strong"
        last = op or session.tape.ops[-1]
        title = session.tape.steps.at(session.cursor).title if op is None and pass_.kind != "setup" else title_of(last)
        pieces = [ToolbarItem(title.removesuffix(" · "), 1, strong)] if title else []
        pieces.append(ToolbarItem(phase if op is None else f"{phase} {count_text(op)}", 0, strong))
        if op is not None:
            place, module = place_text(own_source(op, session.skip)[0]), op.module
            pieces += [ToolbarItem(module, 3)] if module else []
            pieces += [ToolbarItem(place, 2)] if place else []
        timelines = session.changes.timelines
        return [*pieces, ToolbarItem(f"timeline {timelines.current.number}", 1 if len(timelines) > 1 else 4)]
