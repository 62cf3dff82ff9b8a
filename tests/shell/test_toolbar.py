"""The line at the bottom: what it says of a place, and what it leaves out where there is no room."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from prompt_toolkit.enums import EditingMode

import nnrepl
from nnrepl.shell.key_bindings import editing_mode
from nnrepl.shell.toolbar import Toolbar
from tests.support import OpenSession


@pytest.fixture
def session() -> OpenSession:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    return OpenSession(nnrepl.trace(lambda x: model(x).sum(), mx.ones((1, 2)), wrt=model))


def test_what_is_least_wanted_goes_first_and_the_phase_stays(session: OpenSession) -> None:
    session.run("goto addmm")
    bar = Toolbar(session)
    whole = "".join(piece[1] for piece in bar.fragments(200)).split(" · ")
    assert [piece.strip() for piece in whole if ".py:" not in piece] == [
        "step 1", "forward 2 of 4", "layers.0", "timeline 1",
    ]  # fmt: skip
    before = len(whole)
    for width in range(100, 15, -1):
        said = "".join(piece[1] for piece in bar.fragments(width))
        pieces = [piece.strip() for piece in said.split(" · ")]
        assert len(said) <= width
        assert len(pieces) in (before, before - 1)
        assert "forward 2 of 4" in pieces
        before = len(pieces)
    assert before == 1


def test_it_follows_the_cursor(session: OpenSession) -> None:
    bar = Toolbar(session)
    for place, wanted in (("start", "forward 1 of"), ("backward", "backward 1 of"), ("end", "end")):
        session.run(f"goto {place}")
        assert wanted in "".join(piece[1] for piece in bar.fragments(200))


def test_the_keys_are_those_of_the_setting(session: OpenSession) -> None:
    found = {}
    for keys in ("vi", "emacs"):
        session.run(f"config keys {keys}")
        found[keys] = editing_mode(session.settings)
    assert found == {"vi": EditingMode.VI, "emacs": EditingMode.EMACS}
