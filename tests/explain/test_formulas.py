"""Each kind of call of MLX's functions: its formula against MLX, forwards and backwards, and its arithmetic.

`tests/explain/worked.txt` has the calls, in the names of `arrays`: one for each option that changes what is computed.
Below a call stands how an element of each result and gradient is worked out, less the numbers, which are held against
MLX here. Add a call there; `python -m tests.explain.test_formulas` writes the lines below anew; read the difference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import mlx.core as mx

import nnrepl
from nnrepl.explain.explanation import of_value
from nnrepl.explain.known import entry_for
from nnrepl.explain.look import Look
from nnrepl.ops import ENTRIES
from nnrepl.ops.case import epsilon_of
from nnrepl.ops.evaluated import Worked, holds
from nnrepl.tape import Op
from tests.explain.school import mistakes
from tests.explain.test_table import EPSILON, check
from tests.support import OpenSession

WORKED = Path(__file__).with_name("worked.txt")
CALLS = [line for line in WORKED.read_text(encoding="utf-8").splitlines() if not line.startswith(" ")]
_NUMBER = re.compile(r"−?(\d+\.\d+(e[+−]\d+)?|(?<![\w\[,#@])\d+(e[+−]\d+)?(?![\w\]]))")
_REMARK = re.compile(r"   \([^()]*\)$")
_LABEL = re.compile(r"(\d+|setup)?#\d+(?=\W|$)")


def arrays() -> dict[str, mx.array]:
    """What the calls take, by name: small numbers, the same in every run and on every machine."""
    mx.random.seed(7)

    def drawn(*shape: int) -> mx.array:
        return mx.round(mx.random.uniform(-2, 2, shape), 2)

    weights, scales, biases = mx.quantize(mx.random.normal((4, 64)), group_size=32, bits=4)
    experts = mx.quantize(mx.random.normal((3, 4, 64)), group_size=32, bits=4)
    across = mx.quantize(mx.random.normal((64, 64)), group_size=32, bits=4)
    square = drawn(3, 3) + 4 * mx.eye(3)
    return {
        "a": drawn(2, 3), "b": drawn(2, 3), "c": drawn(2, 1, 3), "v": drawn(3), "u": drawn(3), "w": drawn(4),
        "o": mx.array(1.5), "m": drawn(3, 4), "t": drawn(2, 3, 4), "r": drawn(2, 1, 2, 3), "s": square,
        "p": square @ square.T, "z": drawn(2, 3) + 1j * drawn(2, 3), "h": drawn(2, 3).astype(mx.float16),
        "pos": mx.abs(drawn(2, 3)) + 0.5, "tie": mx.array([[1.0, 3.0, 3.0], [-2.0, 2.0, 2.0]]),
        "zero": mx.array([[0.0, 3.0, -3.0], [2.0, 0.0, 1.0]]), "one": mx.array([[2.0]]), "two": square[:2, :2],
        "tri": mx.tril(square), "pair": mx.stack([square, square.T]), "i": mx.array([2, 0, 2]), "odd": drawn(5),
        "j": mx.array([[0, 2, 1, 0], [1, 1, 0, 2], [2, 0, 1, 1]]), "k": mx.array([[2, 0], [1, 1]]),
        "e": mx.array([-3, 2, 7]), "d": mx.array([2, 3, -2]), "bits": mx.array([5, 9, 12], mx.uint8),
        "yes": mx.array([[True, False, True], [False, False, True]]),
        "no": mx.array([mx.nan, mx.inf, -mx.inf, 1.5]), "line": drawn(1, 9, 4), "core": drawn(2, 3, 4),
        "half": drawn(4, 3, 2), "plane": drawn(1, 6, 5, 2), "cut": drawn(3, 2, 3, 2), "cube": drawn(1, 4, 3, 3, 1),
        "block": drawn(2, 2, 2, 2, 1), "q": drawn(1, 4, 3, 4), "kv": drawn(1, 2, 5, 4), "vv": drawn(1, 2, 5, 4),
        "sinks": drawn(4), "mask2": drawn(3, 5), "mask3": drawn(4, 3, 5), "mask4": drawn(1, 4, 3, 5),
        "may": mx.random.bernoulli(0.6, (3, 5)) | (mx.arange(5) == 1), "x": drawn(2, 64),
        "qw": weights, "qs": scales, "qb": biases, "ew": experts[0], "es": experts[1], "eb": experts[2],
        "tw": across[0], "ts": across[1], "tb": across[2], "xs": drawn(3, 1, 64), "f": drawn(2, 2, 5, 8),
        "starts": mx.array([1, 4]), "freqs": mx.array([1.0, 2.0, 8.0, 20.0]),
        "gm": drawn(3, 2, 3), "gn": drawn(2, 3, 4), "lhs": mx.array([2, 0, 1, 0]), "rhs": mx.array([1, 1, 0, 1]),
        "g8": drawn(2, 8), "row": drawn(7), "kernel": drawn(3), "wave": drawn(2, 8),
        "unit": drawn(2, 3) / 2.1, "over": mx.abs(drawn(2, 3)) + 1.2, "bumpy": drawn(2, 3) * 2,
    }  # fmt: skip


def put(a: mx.array, index: Any, value: Any) -> mx.array:
    """An assignment as a function."""
    a = copy(a)
    a[index] = value
    return a


def function_of(call: str, known: dict[str, mx.array]) -> tuple[Callable[..., Any], list[mx.array]]:
    """A call as a function of the arrays that it takes."""
    code = compile(call, "<call>", "eval")
    names = [name for name in code.co_names if name in known]

    def function(*given: mx.array) -> Any:
        return eval(code, {"mx": mx, "put": put, **dict(zip(names, given))})

    return function, [copy(known[name]) for name in names]


_TOGETHER = 40
"""So many calls are recorded in one run: to begin one takes time, and so do names where there are many gradients."""
UNCALLED = {
    "empty", "empty_like",  # any numbers
    "random.laplace", "random.multivariate_normal", "random.normal", "random.truncated_normal", "random.uniform",
    "distributed.all_sum", "hanning", "unique", "fft.istft", "fft.stft", "block_masked_mm", "matrix_norm",
}  # fmt: skip
"""The ops that no call here has."""
ONE_WAY = {"positive", "linalg.inv", "linalg.solve"}
"""The ops whose VJP is not recorded: MLX has none, or they are no op of its graph."""
MARK = "hanning"
"""An op that no call has: it says which call begins, or (0) that its own ops end."""


def weighed(result: Any) -> mx.array:
    """Each number of a result with another weight."""
    mx.hanning(0)
    sums = []
    for part in result if isinstance(result, (list, tuple)) else [result]:
        if mx.issubdtype(part.dtype, mx.inexact):
            weights = mx.cos(mx.arange(part.size)).reshape(part.shape)
            sums.append(mx.sum(mx.real(part) * weights + mx.imag(part) ** 2) if part.dtype == mx.complex64
                        else mx.sum(part * weights))  # fmt: skip
    return sum(sums[1:], sums[0])


def program(known: dict[str, mx.array], calls: dict[int, str]) -> None:
    """Run some calls, each with its gradients where MLX has some."""
    for number, call in calls.items():
        function, given = function_of(call, known)
        wrt = [at for at, array in enumerate(given) if mx.issubdtype(array.dtype, mx.floating)]
        mx.hanning(number)
        try:
            mx.grad(lambda *given, function=function: weighed(function(*given)), wrt)(*given)
        except (ValueError, RuntimeError, IndexError):  # MLX has no gradient of it, or its result is whole numbers
            mx.hanning(number)
            function(*given)
            mx.hanning(0)


def recorded(known: dict[str, mx.array], calls: dict[int, str]) -> tuple[OpenSession, dict[int, list[Op]]]:
    """Some calls recorded, in one run; by its number, a call's own ops, forwards and backwards."""
    trace = nnrepl.trace(program, known, calls)
    own: dict[int, list[Op]] = {}
    number = 0
    for op in trace.ops:
        if op.operation.name == MARK:
            number = op.args[0]
            own[number] = []
        elif op.of is None:
            own[number].append(op)
    mine = {op: number for number, ops in own.items() for op in ops if number}
    for op in trace.ops:
        if op.of in mine:
            own[mine[op.of]].append(op)
    return OpenSession(trace), own


def lines_of(look: Look, op: Op) -> Iterator[str]:
    """What is written for one element of every result and every gradient of an op, its numbers held against MLX; and
    first what is said of an op whose options are not the usual ones."""
    entry = entry_for(op)
    if entry is not None and op.of is None and entry is not ENTRIES[op.name] and op.error is None:
        yield f"    ({entry.words})"
    for value in op.outputs:
        if value.size and entry is not None and op.error is None:
            place = [max(0, extent - 1 - at % 2) for at, extent in enumerate(value.shape)]
            explained = of_value(look, value, str(place) if place else None)
            found = explained.lines
            assert mistakes(found, EPSILON.get(value.dtype, 4e-6) * 2)[0] == []
            for one in explained.worked:
                if isinstance(one, Worked):
                    assert_is_told_from_others(one)
            told = " | ".join(line for line in found[:-1] if line != found[0] and not line.startswith("="))
            told += _REMARK.search(found[-1])[0] if len(found) > 1 and _REMARK.search(found[-1]) else ""
            yield f"    {_LABEL.sub('#', _NUMBER.sub('0', f'{found[0]} {told}'.strip()))[:300]}"


def assert_is_told_from_others(found: Worked) -> None:
    """A number that is visibly another, of either sign, is not taken for what the terms come to."""
    exact = found.result
    if isinstance(exact, (bool, int)) or not math.isfinite(abs(exact)):
        return
    dtype = found.target.dtype
    terms = sum(abs(part.at(0.0).value) for part in found.line.node.parts if part.kind != "compare")
    away = 0.1 if dtype in (mx.float16, mx.bfloat16) else 0.02
    for sign in (1, -1):
        other = exact + sign * away * (1 + abs(exact) + terms)
        assert not holds(found.line.node, other, max(found.line.epsilon, epsilon_of(dtype)), dtype), found.lines()


def worked() -> Iterator[str]:
    """The lines of the file."""
    mx.random.seed(5)
    known, numbered = arrays(), list(enumerate(CALLS, 1))
    told: set[str] = set()
    for start in range(0, len(CALLS), _TOGETHER):
        calls = dict(numbered[start : start + _TOGETHER])
        session, own = recorded(known, calls)
        look = Look(session)
        for number, call in calls.items():
            yield call
            for op in own[number]:
                check(op)
                kind = str(op.operation.name if op.of is None else f"vjp of {op.of.name}")
                if number % 4 == 0 or kind not in told or _by_hand(op):
                    yield from lines_of(look, op)
                told.add(kind)
    assert {name for name, entry in ENTRIES.items() if entry.forward is not None and name not in UNCALLED} <= told
    assert {
        f"vjp of {name}" for name, entry in ENTRIES.items() if entry.slopes and name not in UNCALLED | ONE_WAY
    } <= told


def _by_hand(op: Op) -> bool:
    """Whether its arithmetic is not just its formula with numbers in it: of those some are enough, and one of each
    op."""
    entry = entry_for(op)
    return entry is not None and (entry.row is None or bool(entry.forwards or entry.backwards))


def main() -> None:
    """Hold everything against MLX and against the file."""
    wanted = WORKED.read_text(encoding="utf-8").splitlines()
    found = list(worked())
    for was, now in zip(wanted, found):
        assert now == was
    assert len(found) == len(wanted)


def test_every_kind_of_call_is_what_mlx_computes_and_is_written_out() -> None:
    main()


if __name__ == "__main__":
    WORKED.write_text("\n".join(worked()) + "\n", encoding="utf-8")
