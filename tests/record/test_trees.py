"""Trees: nested lists, tuples and dicts of arrays are walked in MLX's order, and made anew in their own kinds."""

from __future__ import annotations

from collections import namedtuple
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from nnrepl.record import trees


class Pair(NamedTuple):
    left: Any
    right: Any


class Three(tuple[Any, ...]):
    """A tuple of a kind of its own, made of one sequence."""


A, B, C, D = (mx.array(float(number)) for number in range(4))


def tree() -> dict[str, Any]:
    return {"w": A, "layers": [B, {"k": 3, "v": (C, "text")}], "pair": Pair(D, None), "three": Three([A, [B]])}


def same(one: Any, other: Any) -> bool:
    """Whether two trees are of the same kinds and hold the same objects."""
    if isinstance(one, dict):
        return (
            type(one) is type(other) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        )
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one is other or (not isinstance(one, mx.array) and bool(one == other))


def test_what_lies_in_a_tree_in_order() -> None:
    assert same(trees.leaves(tree()), [A, B, 3, C, "text", D, None, A, B])
    assert same(trees.arrays(tree()), [A, B, C, D, A, B])
    assert same(trees.leaves(A), [A])
    assert trees.arrays("text") == []
    assert same(trees.arrays([mx.random.state]), [mx.random.state[0]])
    found = list(trees.paths(tree()))
    assert [path for path, _ in found] == [path for path, one in tree_flatten(tree()) if isinstance(one, mx.array)]
    assert same([array for _, array in found], trees.arrays(tree()))
    assert [path for path, _ in trees.paths([A, [B]], "model")] == ["model.0", "model.1.0"]
    assert [path for path, _ in trees.paths({"a": [A]}, "model")] == ["model.a.0"]
    assert [path for path, _ in trees.paths({3: A})] == ["3"]


def test_a_tree_is_filled_in_place_but_for_its_tuples() -> None:
    new = {id(A): B, id(B): C, id(C): D, id(D): A}
    filled = tree()
    layers, inner, pair = filled["layers"], filled["layers"][1], filled["pair"]
    assert trees.fill(filled, lambda array: new[id(array)]) is filled
    assert filled["layers"] is layers
    assert layers[1] is inner
    assert filled["pair"] is not pair
    wanted = {"w": B, "layers": [C, {"k": 3, "v": (D, "text")}], "pair": Pair(A, None), "three": Three([B, [C]])}
    assert same(filled, wanted)
    assert trees.fill(mx.random.state, lambda array: A) is mx.random.state
    assert trees.fill(A, lambda array: B) is B


def test_a_tree_is_rebuilt_with_plain_dicts_and_leaves_the_old_one_alone() -> None:
    old = tree()
    new = trees.rebuild(old, lambda array: "array")
    wanted = {
        "w": "array", "layers": ["array", {"k": 3, "v": ("array", "text")}], "pair": Pair("array", None),
        "three": Three(["array", ["array"]]),
    }  # fmt: skip
    assert same(new, wanted)
    assert same(old, tree())
    assert type(trees.rebuild(nn.Linear(1, 1), lambda array: 1)) is dict


@pytest.mark.parametrize("kind", [list, tuple, Three])
def test_a_tree_like_a_model_has_its_modules(kind: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.parts = kind([nn.Linear(1, 1), {"plain": A}])
    made = trees.like(model, trees.rebuild(dict(model), lambda array: B))
    assert type(made) is nn.Sequential
    assert made is not model
    assert type(made.parts) is kind
    assert [type(part) for part in made.parts] == [nn.Linear, dict]
    assert made.parts[0].weight is B
    assert model.parts[0].weight is not B
    assert made.parts[1]["plain"] is B
    assert type(made.layers[0]) is nn.Linear
    empty = trees.without_arrays(model)
    assert (empty.parts[0]["weight"], empty.layers[0]["bias"]) == (None, None)
    assert model.layers[0].bias is not None


def test_a_named_tuple_takes_its_parts_one_by_one() -> None:
    point = namedtuple("point", "x y")
    assert trees.rebuild(point(A, 2), lambda array: 1) == point(1, 2)
    assert trees.like((A, {"k": A}), (B, {"k": C})) == (B, {"k": C})
