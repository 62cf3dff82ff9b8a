"""The shell: the prompt and what belongs to it, the full screen, the plain loop, notebooks, the public API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnrepl.tape.face import draw_with

if TYPE_CHECKING:
    from nnrepl.tape.face import Artist


def _artist() -> Artist:
    from nnrepl.shell.faces import Faces

    return Faces()


draw_with(_artist)  # whatever holds a tape came through here: the public API and the command line are in this room
