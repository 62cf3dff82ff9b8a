"""An edit that MLX would round without a word is refused, and one that fits is not."""

from __future__ import annotations

import mlx.core as mx
import pytest

import nnrepl


def session() -> nnrepl.Session:
    def shifted(x: mx.array) -> mx.array:
        places = mx.arange(3)
        return (x + places * 2).sum()

    made = nnrepl.Session(nnrepl.trace(shifted, mx.array([0.5, 1.5, 2.5]), wrt=0))
    made.run("goto multiply")
    return made


@pytest.mark.parametrize("typed", ["places[0] = 0.5", "places = 0.5", "places[1] = mx.array(1.5)"])
def test_a_fraction_does_not_fit_into_whole_numbers(typed: str) -> None:
    made = session()
    with pytest.raises(
        nnrepl.UserError, match=r"places is int32; .* (does not fit into it without loss|is not a whole number)"
    ):
        made.run(typed)
    assert "0 1 2" in str(made.run("p places"))


@pytest.mark.parametrize("typed", ["places[0] = 5", "places[0] = 5.0"])
def test_a_whole_number_does(typed: str) -> None:
    made = session()
    made.run(typed)
    assert "5 1 2" in str(made.run("p places"))
