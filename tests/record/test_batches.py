"""Many tensors compared side by side give what each pair gives by itself; MLX's graph is read in one drawing."""

from __future__ import annotations

import math

import mlx.core as mx

from nnrepl.record.batches import all_equal, all_same_bits, of_one_size, rows, same_bits
from nnrepl.record.dot import read_graph
from nnrepl.tape import Value
from nnrepl.timeline.compare import distances
from tests.support import bits

NAN, INF = math.nan, math.inf


def pairs() -> list[tuple[mx.array, mx.array]]:
    """Pairs of all kinds, those of one shape among each other apart."""
    found = [
        (mx.array([1.0, NAN]), mx.array([1.0, NAN])),
        (mx.array(0.0), mx.array(-0.0)),
        (mx.array([0.0, 1.0]), mx.array([-0.0, 1.0])),
        (mx.array([[1, 2]]), mx.array([[1, 2]])),
        (mx.array([1.0, 2.0]), mx.array([1.0, 2.5])),
        (mx.array([True]), mx.array([False])),
        (mx.zeros((0, 3)), mx.zeros((0, 3))),
        (mx.array([INF, -INF]), mx.array([INF, INF])),
        (mx.array(3.0), mx.array(3.0)),
        (mx.array([1 + 2j]), mx.array([1 + 2j])),
        (mx.ones((5000,)), mx.ones((5000,)) + mx.arange(5000) * 0),
    ]
    for dtype in (mx.float16, mx.bfloat16, mx.int8):
        found += [(mx.array([1, 2], dtype), mx.array([1, 2 + k], dtype)) for k in (0, 1)]
    return found * 2


def test_bits_side_by_side() -> None:
    mixed = [*pairs(), (mx.array([1.0]), mx.array([1])), (mx.array([1.0]), mx.array([1.0, 1.0]))]
    expected = [bits(a) == bits(b) and a.dtype == b.dtype for a, b in mixed]
    assert [bool(same_bits(a, b).item()) for a, b in mixed] == expected
    assert all_same_bits(mixed) == expected


def test_distances_side_by_side() -> None:
    given = [(a, b) for a, b in pairs() if a.size]
    together = list(distances(given))
    alone = [next(distances([pair])) for pair in given]
    assert str(together) == str(alone)
    assert [found.same for found in together[:5]] == [True, True, True, True, False]
    assert together[4].absolute == 0.5
    assert together[4].index == (1,)
    inf = next(found for (a, _), found in zip(given, together) if a.shape == (2,) and a[0].item() == INF)
    assert inf.absolute == INF
    assert inf.index == (1,)


def test_equal_side_by_side() -> None:
    given = [*pairs(), (mx.ones((2, 3)), mx.ones((3,))), (mx.ones((2, 3)), mx.array([1.0, 1.0, 2.0])),
             (mx.array([1.0, 2.0]), mx.array([1, 2])), (mx.ones((5000, 2)), mx.array(1.0))]  # fmt: skip
    assert all_equal(given) == [bool(mx.all(a == b).item()) for a, b in given]


def test_values_of_one_size_are_rows() -> None:
    values = [Value(None, 0, mx.full(shape, 1.0 * k)) for k, shape in enumerate([(2, 3), (6,), (4,), (3, 2), ()])]
    groups = list(of_one_size(values))
    assert [len(group) for group in groups] == [3, 1, 1]
    assert rows(groups[0])[:, 0].tolist() == [0.0, 1.0, 3.0]


def test_every_array_is_found_in_the_graph() -> None:
    x = mx.ones((4,))
    mx.eval(x)
    doubled = x * 2
    left, right = mx.split(doubled, 2)
    again = doubled.astype(mx.float32)  # the same node
    total = left + right
    primitives, nodes = read_graph([total, x, right, left, doubled, again, total])
    made = {name: part for part in primitives for name in part.outputs}
    assert made[nodes[0]].label == "Add"
    assert nodes[1] not in made
    assert made[nodes[2]] is made[nodes[3]]
    assert nodes[2] != nodes[3]
    assert made[nodes[0]].inputs == (nodes[3], nodes[2])
    assert nodes[4] == nodes[5]
    assert nodes[0] == nodes[6]
    assert not any("mark" in name for part in primitives for name in (*part.inputs, *part.outputs))
