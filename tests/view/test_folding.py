"""`ops pass`, `ops MODULE` and `ops all`: which modules are one line, and which are unfolded."""

from __future__ import annotations

import re

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from tests.support import OpenSession


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(2, 3), nn.Linear(3, 2)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down(nn.relu(self.up(x)))


class Hands(nn.Module):
    """Hands a call on."""

    def __call__(self, module: nn.Module, x: mx.array) -> mx.array:
        return module(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = [Block() for _ in range(4)]
        self.only, self.hands = nn.Linear(2, 1), Hands()

    def __call__(self, x: mx.array) -> mx.array:
        for block in self.blocks:
            x = block(x)
        return self.hands(self.only, x)


@pytest.fixture(scope="module")
def session() -> OpenSession:
    net, x = Net(), mx.ones((1, 2))
    return OpenSession(nnrepl.trace(nn.value_and_grad(net, lambda x: net(x).sum()), x))


def folded(shown: nnrepl.Answer) -> list[str]:
    """What stands in one line: the module, its first and its last op."""
    return [" ".join(found) for found in re.findall(r"▸ (\S+)  #(\d+) to #(\d+)", str(shown))]


BLOCKS = ["blocks.1 6 10", "blocks.2 11 15", "blocks.3 16 20"]
REST = ["only 21 22", "only 25 26", "blocks.3 27 31", "blocks.2 32 36"]


def test_the_modules_around_the_cursor_are_unfolded(session: OpenSession) -> None:
    session.run("goto start")
    shown = session.run("ops pass")
    assert folded(shown) == ["blocks.0.down 4 5", *BLOCKS, *REST, "blocks.1 37 41", "blocks.0.down 42 43"]
    assert "▶ #1    transpose" in str(shown)
    assert "  #2    addmm " in str(shown)
    session.run("goto end")
    shown = session.run("ops pass")
    assert folded(shown) == ["blocks.0 1 5", *BLOCKS, *REST, "blocks.1 37 41", "blocks.0 42 46"]
    assert str(shown).splitlines()[-2:] == ["▶ (end)", "ops MODULE unfolds one, ops all everything"]
    assert str(shown).count("▶") == 1


def test_a_module_that_is_named_is_unfolded_down_to_its_modules(session: OpenSession) -> None:
    session.run("goto 1#3")
    before, after = ["blocks.0.up 1 2", "blocks.0.down 4 5"], ["blocks.0.down 42 43", "blocks.0.up 45 46"]
    own = ["blocks.1.up 6 7", "blocks.1.down 9 10", *BLOCKS[1:], *REST, "blocks.1.down 37 38", "blocks.1.up 40 41"]
    assert folded(session.run("ops blocks.1")) == [*before, *own, *after]
    assert folded(session.run("ops blocks.1.up")) == [*before, *own[1:-1], *after]
    shown = str(session.run("ops all"))
    assert "▸" not in shown
    assert "unfolds" not in shown
    assert [int(number) for number in re.findall(r"(?m)^[▶ ] #(\d+)", shown)] == list(range(1, 47))


def test_a_module_without_ops_of_its_own_has_those_of_its_call(session: OpenSession) -> None:
    shown = str(session.run("ops hands"))
    assert [int(number) for number in re.findall(r"(?m)^[▶ ] #(\d+)", shown)] == [21, 22, 25, 26]
    with pytest.raises(nnrepl.UserError, match=r"there is no module blocks\.9"):
        session.run("ops blocks.9")


def test_a_short_pass_and_one_without_ops() -> None:
    block, x = Block(), mx.ones((1, 2))
    shown = OpenSession(nnrepl.trace(lambda x: block(x), x)).run("ops pass")
    assert str(shown).count("forward") == 1
    assert "▸" not in str(shown)
    assert "· 5 ops" in str(shown)
    empty = OpenSession(nnrepl.trace(lambda x: x, x))
    assert "nothing has been recorded yet" in str(empty.run("ops pass"))
    for line in ("explain", "into"):  # nor is there a #3 that could be named
        with pytest.raises(nnrepl.UserError, match="nothing has been recorded yet"):
            empty.run(line)
