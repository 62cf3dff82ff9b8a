"""Comparing with a reference: a port with a mistake in it, against the activations of the original."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from rich.console import Console

import nnrepl
from nnrepl.commands.interpreter import Interpreter
from nnrepl.programs.saving import save
from nnrepl.session.counterparts import arrangements, normal, similar
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession
from nnrepl.view.theme import THEMES
from tests.support import OpenSession, nnrepl_cli


class Attention(nn.Module):
    def __init__(self, bug: str) -> None:
        super().__init__()
        self.bug = bug
        self.q_proj = nn.Linear(16, 16, bias=False)
        self.k_proj = nn.Linear(16, 16, bias=False)
        self.v_proj = nn.Linear(16, 16, bias=False)
        self.o_proj = nn.Linear(16, 16, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        rows, length, _ = x.shape
        q, k, v = (
            layer(x).reshape(rows, length, 4, 4).transpose(0, 2, 1, 3)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        scaled = q * (1.0 if self.bug == "scale" else 0.5)
        scores = scaled @ k.transpose(0, 1, 3, 2)
        if self.bug == "mask":
            scores = mx.where(mx.arange(length) < length - 1, scores, -1e9)
        weights = mx.softmax(scores, axis=-2 if self.bug == "axis" else -1)
        mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(rows, length, 16)
        return self.o_proj(mixed)


class Block(nn.Module):
    def __init__(self, bug: str) -> None:
        super().__init__()
        self.bug = bug
        self.norm = nn.RMSNorm(16, eps=1e-2 if bug == "eps" else 1e-5)
        self.attention = Attention(bug)
        self.mlp_norm = nn.LayerNorm(16)
        self.fc1 = nn.Linear(16, 32)
        self.fc2 = nn.Linear(32, 16, bias=bug != "bias")

    def __call__(self, x: mx.array) -> mx.array:
        h = x + self.attention(self.norm(x))
        up = self.fc1(self.mlp_norm(h))
        act = nn.relu(up) if self.bug == "activation" else nn.gelu(up)
        return act @ self.fc2.weight.T if self.bug == "residual" else h + self.fc2(act)


class Model(nn.Module):
    def __init__(self, bug: str = "") -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.layers = [Block(""), Block(bug)]
        self.head = nn.Linear(16, 50)

    def __call__(self, ids: mx.array) -> mx.array:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        logits = self.head(x)
        return logits


IDS = mx.array([[1, 2, 3, 4, 5]])


def port(bug: str = "") -> TapeSession:
    """The model with a mistake, with the original's weights, recorded and not evaluated."""
    original, model = Model(), Model(bug)
    weights = dict(tree_flatten(original.parameters()))
    if bug == "transposed":
        name = "layers.1.attention.q_proj.weight"
        weights[name] = weights[name].T
    if bug == "bias":
        del weights["layers.1.fc2.bias"]
    if bug == "lost":
        weights["layers.1.mlp_norm.weight"] = mx.ones((16,)) * 3
    model.load_weights(list(weights.items()), strict=False)
    mx.eval(model.parameters())
    return OpenSession(nnrepl.trace(lambda ids: model(ids), IDS))


def dumped(detailed: bool = True) -> dict[str, mx.array]:
    """What somebody dumps from the original: parameters, and the output of each module as a forward hook sees
    it; in detail, some intermediate values too."""
    mx.random.seed(0)
    session = port()
    names = session.names
    arrays: dict[str, mx.array] = {}
    for op in session.tape.ops:
        for path, _ in names.calls(op):
            if path:
                arrays[f"model.{path}"] = op.outputs[0].array
        for value in op.inputs:
            if value.name.endswith((".weight", ".bias")):
                arrays[f"model.{value.name}"] = value.array
        for value in op.outputs:
            name = value.name
            if detailed and name in ("scaled", "scores", "weights", "mixed", "up", "act", "h"):
                arrays[f"{op.module}.{name}"] = value.array
    mx.eval(arrays)
    return arrays


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("reference") / "ref.safetensors"
    mx.save_safetensors(str(file), dumped())
    return file


@pytest.fixture(scope="module")
def hooks_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("reference") / "hooks.safetensors"
    mx.save_safetensors(str(file), dumped(False))
    return file


def said(session: TapeSession, line: str) -> str:
    console = Console(width=200, color_system=None, theme=THEMES["dark"], highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(Interpreter(session).run(line))
    return captured.get()


def refusal(session: TapeSession, line: str) -> str:
    with pytest.raises(UserError) as caught:
        Interpreter(session).run(line)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_port_without_mistakes_agrees(reference: Path) -> None:
    shown = said(port(), f"compare {reference}")
    assert shown.startswith("✓ all")
    assert "0 differ" in shown
    assert "not compared" not in shown


FOUND = {
    "eps": ("fast.rms_norm", "layers.1.norm.weight", "each row is the reference times one number"),
    "scale": ("multiply", "scaled", "ours is 2 × the reference everywhere"),
    "axis": ("softmax", "axis=-2", "weights"),
    "activation": ("maximum", "act", ""),
    "bias": ("matmul", "layers.1.fc2", "the difference is the same vector in every row"),
    "residual": ("matmul", "", ""),
}


@pytest.mark.parametrize("bug", FOUND)
def test_the_first_wrong_op_is_named(bug: str, reference: Path) -> None:
    op, detail, hint = FOUND[bug]
    shown = said(port(bug), f"compare {reference}")
    first = shown.splitlines()[0]
    assert first.startswith("first difference: #")
    assert first.split()[3] == op, shown
    assert detail in first
    assert hint in shown


def test_an_op_too_many(reference: Path) -> None:
    """The first `scores` agrees; the mistake lies between it and the weights made from it."""
    shown = said(port("mask"), f"compare {reference}")
    assert shown.startswith("first difference: weights  came about in one of these 4 ops")
    assert " where " in shown.partition("largest")[0]


@pytest.mark.parametrize("bug", FOUND)
def test_hooks_alone_narrow_it_down(bug: str, hooks_only: Path) -> None:
    """With the outputs of modules only, the wrong op is among those that are named."""
    op = FOUND[bug][0]
    shown = said(port(bug), f"compare {hooks_only}")
    assert shown.startswith("first difference: ")
    assert f" {op} " in shown.partition("what goes into")[0].partition("its inputs")[0], shown
    assert "✗" not in shown.partition("its inputs")[2].partition("largest |Δ|  ")[0]


def test_a_transposed_weight(reference: Path) -> None:
    shown = said(port("transposed"), f"compare {reference}")
    assert shown.startswith("first difference: layers.1.attention.q_proj.weight, a parameter")
    assert "it agrees with the reference transposed" in shown
    assert "it goes in by" in shown


def test_a_wrong_weight(reference: Path) -> None:
    shown = said(port("lost"), f"compare {reference}")
    assert shown.startswith("first difference: layers.1.mlp_norm.weight, a parameter")
    assert "ours is 3 × the reference everywhere" in shown


def test_only_what_is_compared_is_evaluated(tmp_path: Path) -> None:
    session = OpenSession(nnrepl.trace(chain, mx.array([1.0, 2.0])))
    file = tmp_path / "r.safetensors"
    mx.save_safetensors(str(file), {"b": mx.cos(mx.sin(mx.array([1.0, 2.0])))})
    assert said(session, f"compare {file}").startswith("✓ the one tensor")
    assert [value.evaluated for op in session.tape.ops for value in op.outputs] == [True, True, False, False]


def chain(x: mx.array) -> mx.array:
    a = mx.sin(x)
    b = mx.cos(a)
    c = mx.exp(b)
    d = c * 2
    return d


# -- matching -------------------------------------------------------------------------------------------------


def compared(tmp_path: Path, fn: Callable[..., Any], args: list[Any], arrays: dict[str, Any], rest: str = "") -> str:
    file = tmp_path / "r.npz"
    np.savez(file, **{key: np.array(array) for key, array in arrays.items()})
    return said(OpenSession(nnrepl.trace(fn, *args)), f"compare {file} {rest}")


def test_a_mapping(tmp_path: Path) -> None:
    x = mx.array([1.0, 2.0])
    arrays = {"hidden.states.0": mx.sin(x), "hidden.states.1": mx.cos(mx.sin(x))}
    assert "2 agree, 0 differ" in compared(tmp_path, chain, [x], arrays, "map a=hidden.states.0 #2=hidden.states.1")
    shown = compared(tmp_path, chain, [x], arrays, "map a=hidden.states.0 c=hidden.states.1")
    assert shown.startswith("first difference: ")
    lines = tmp_path / "names.txt"
    lines.write_text("a=hidden.states.0\n\n#2 = hidden.states.1\n")
    assert "matched 2 as mapped" in compared(tmp_path, chain, [x], arrays, f"map {lines}")
    table = tmp_path / "names.json"
    table.write_text(json.dumps({"a": "hidden.states.0", "b": "hidden.states.1"}))
    assert "2 agree, 0 differ" in compared(tmp_path, chain, [x], arrays, f"tolerance 1e-4 map {table}")


def test_paths_are_mapped_as_a_whole(tmp_path: Path) -> None:
    """The original calls its parts otherwise throughout."""
    theirs = {
        key.replace("model.layers", "encoder.block").replace("attention", "attn").replace("fc", "dense_"): array
        for key, array in dumped(False).items()
    }
    file = tmp_path / "r.safetensors"
    mx.save_safetensors(str(file), theirs)
    paths = "layers.*.attention=encoder.block.*.attn layers.*.fc1=encoder.block.*.dense_1"
    others = "layers.*.fc2=encoder.block.*.dense_2 layers=encoder.block"
    mx.random.seed(0)
    shown = said(port("scale"), f"compare {file} map {paths} {others}")
    assert "layers.1.attention.o_proj.x  came about in one of these" in shown.splitlines()[0]
    assert f"in {file}, not compared" not in shown
    assert "no array called decoder" in refusal(port(), f"compare {file} map layers=decoder")


def test_other_layouts(tmp_path: Path) -> None:
    def convolution(x: mx.array, w: mx.array) -> mx.array:
        y = mx.conv2d(x, w)
        flat = y.reshape(-1, 5)
        return flat

    x, w = mx.random.normal((1, 6, 7, 3)), mx.random.normal((5, 2, 2, 3))
    y = mx.conv2d(x, w)
    arrays = {"w": w.transpose(0, 3, 1, 2), "x": x.transpose(0, 3, 1, 2), "y": y.transpose(0, 3, 1, 2), "flat": y}
    shown = compared(tmp_path, convolution, [x, w], arrays)
    assert "4 agree, 0 differ" in shown
    arrays["y"] = arrays["y"] * 2
    arrays["flat"] = arrays["flat"] * 2
    shown = compared(tmp_path, convolution, [x, w], arrays)
    assert shown.startswith("first difference: #1  conv2d")
    assert "ours is 0.5 × the reference everywhere" in shown
    assert "axes (0, 2, 3, 1) of (1, 5, 5, 6)" in shown
    assert "reshaped from (1, 5, 6, 5)" in shown


def test_of_several_values_of_a_name_the_one_of_that_shape_is_compared(tmp_path: Path) -> None:
    def summed(x: mx.array) -> mx.array:
        h = x * 2
        h = h.sum(axis=0)
        h = h[:, None]
        return h * 3

    x = mx.arange(6.0).reshape(2, 3)
    for reference in (x * 2, (x * 2).sum(axis=0), (x * 2).sum(axis=0)[:, None]):
        assert "1 agree, 0 differ" in compared(tmp_path, summed, [x], {"h": reference})


def test_gradients(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    x = mx.random.normal((4, 3))

    def loss_fn(x: mx.array) -> mx.array:
        return mx.square(model(x)).sum()

    trace = nnrepl.trace(loss_fn, x, wrt=model)
    file = tmp_path / "r.safetensors"
    grads = trace.grads
    mx.save_safetensors(
        str(file), {"weight.grad": grads["weight"], "bias.grad": grads["bias"] * 2, "loss": trace.value}
    )
    shown = said(OpenSession(trace), f"compare {file}")
    assert "∂L/∂bias" in shown.splitlines()[0]
    assert "ours is 0.5 × the reference everywhere" in shown
    assert "2 agree, 1 differ" in shown


def test_names_that_mean_several_values(tmp_path: Path) -> None:
    def function(x: mx.array) -> mx.array:
        x = mx.sin(x)
        x = mx.cos(x)
        return x

    x = mx.array([0.3, 0.7])
    for agreeing in (x, mx.sin(x), mx.cos(mx.sin(x))):
        assert "1 agree, 0 differ" in compared(tmp_path, function, [x], {"x": agreeing})
    shown = compared(tmp_path, function, [x], {"x": mx.zeros((2,)), "sin": mx.sin(x)}, "map #1=sin")
    assert "x: it could be any of #1, #2: map #1=x says which" in shown


def test_half_precision_gets_its_own_tolerance(tmp_path: Path) -> None:
    x = mx.random.normal((64,)).astype(mx.bfloat16)
    exact = {"a": np.sin(np.array(x.astype(mx.float32), dtype=np.float64))}
    assert "1 agree, 0 differ; tolerance 0.016" in compared(tmp_path, chain, [x], exact)
    assert "0 agree, 1 differ; tolerance 1e-07" in compared(tmp_path, chain, [x], exact, "tolerance 1e-7")


def test_nan_and_shapes_that_do_not_fit(tmp_path: Path) -> None:
    x = mx.array([1.0, 2.0])
    shown = compared(tmp_path, chain, [x], {"a": mx.array([float("nan"), 0.9092974])})
    assert "NaN or ∞ at [0] in one of the two" in shown
    assert "no NaN or ∞ in ours, 1 NaN or ∞ in the reference" in shown
    shown = compared(tmp_path, chain, [x], {"a": mx.zeros((3, 5))})
    assert "shape (2,), in the reference (3, 5)" in shown
    assert "1 agree" in compared(tmp_path, lambda x: chain(x[:0]), [x], {"a": mx.zeros((0,))})


def test_paths() -> None:
    assert normal("model.model.Layers[0].fc1.weight") == "layers.0.fc1.weight"
    assert similar("module.layers_0.fc1.weight") == "layers0fc1"
    assert arrangements((2, 3), (3, 2)) == [(1, 0)]
    assert arrangements((2, 3), (2, 3)) == [(0, 1)]
    assert arrangements((6,), (2, 3)) == [()]
    assert arrangements((2, 3), (2, 4)) == []


# -- with another tape ----------------------------------------------------------------------------------------


def test_two_tapes_are_compared_op_by_op(tmp_path: Path) -> None:
    mx.random.seed(0)
    save(port(), str(tmp_path / "good"), True)
    mx.random.seed(0)
    shown = said(port("eps"), f"compare {tmp_path / 'good'}")
    assert shown.splitlines()[0].split()[3] == "fast.rms_norm"
    assert "layers.1.norm.weight" in shown.splitlines()[0]
    mx.random.seed(0)
    assert said(port(), f"compare {tmp_path / 'good'}").startswith("✓ all")
    assert "without map" in refusal(port(), f"compare {tmp_path / 'good'} map a=b")


def test_a_loaded_tape_is_compared(tmp_path: Path, reference: Path) -> None:
    mx.random.seed(0)
    file = tmp_path / "run.safetensors"
    save(port("scale"), str(file), True)
    result = nnrepl_cli(str(file), stdin=f"compare {reference}\n")
    assert result.stderr == ""
    assert "first difference: #" in result.stdout
    assert "ours is 2 × the reference everywhere" in result.stdout


def test_an_open_pass_is_to_go_on_only_while_the_program_runs(tmp_path: Path) -> None:
    mx.savez(str(tmp_path / "ref.npz"), y=mx.full((2,), 2.0), late=mx.ones((2,)))
    gradient = "x = mx.grad(lambda x: (x * 3).sum())(mx.ones((2,)))\ny = x - 1; breakpoint()\nz = mx.ones((3,))\n"
    shown = []
    for text, lines in ((gradient, "c\ncompare ref.npz\n"), ("y = mx.ones((2,)) * 2\n", "compare ref.npz\n")):
        (tmp_path / "prog.py").write_text(f"import mlx.core as mx\n{text}")
        shown.append(" ".join(nnrepl_cli("prog.py", stdin=lines, cwd=tmp_path).stdout.split()))
    waits, ended = shown
    assert all("late: nothing on the tape" in one for one in shown)
    assert "the program stands at #6 of this pass: go on (continue, finish)" in waits
    assert "go on (continue" not in ended


# -- bad input ------------------------------------------------------------------------------------------------


def test_lines_that_cannot_be(tmp_path: Path) -> None:
    session = OpenSession(nnrepl.trace(chain, mx.ones((2,))))
    good = tmp_path / "r.safetensors"
    mx.save_safetensors(str(good), {"nosuch": mx.ones((2,))})
    for line, words in {
        f"compare {tmp_path / 'no'}": f"there is no file {tmp_path / 'no.safetensors'}",
        f"compare {tmp_path}": "is a directory",
        f"compare {good}": "say which is which: compare",
        f"compare {good} map a=nothing": "no array called nothing",
        f"compare {good} map nothing=nosuch": "nothing on the tape is called nothing",
        f"compare {good} map": "map needs NAME=KEY",
        f"compare {good} map =": "a mapping is NAME=KEY",
        f"compare {good} tolerance": "a tolerance is a number",
        f"compare {good} tolerance -1": "a tolerance is a number",
        f"compare {good} tolerance nan": "a tolerance is a number",
        f"compare {good} please": "does not know 'please'",
        "compare 'r.safetensors": "cannot be read",
    }.items():
        assert words in refusal(session, line), line
    assert refusal(session, f"compare {tmp_path / 'no.npz'}") == f"there is no file {tmp_path / 'no.npz'}"
    empty = OpenSession(nnrepl.trace(lambda: None))
    assert "nothing has been recorded" in refusal(empty, f"compare {good}")


def test_files_that_are_no_good(tmp_path: Path) -> None:
    session = OpenSession(nnrepl.trace(chain, mx.ones((2,))))

    def bad(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return refusal(session, f"compare {tmp_path / name}")

    class Evil:
        def __reduce__(self) -> Any:
            return (exec, (f"open({str(tmp_path / 'owned')!r}, 'w')",))

    assert "could run code" in bad("x.pt", b"PK")
    assert "reads .safetensors and .npz" in bad("x.txt", b"")
    assert "not a safetensors file" in bad("x.safetensors", b"hello")
    assert "not a NumPy archive" in bad("x.npz", b"hello")
    assert "not a NumPy archive" in bad("x.npz", pickle.dumps(Evil()))
    np.savez(tmp_path / "o.npz", a=np.array([Evil()], dtype=object))
    assert "cannot be read" in refusal(session, f"compare {tmp_path / 'o.npz'}")
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY garbage")
    assert "cannot be read" in refusal(session, f"compare {tmp_path / 'z.npz'}")
    assert not (tmp_path / "owned").exists()
    if (memory := Path("/proc/self/mem")).exists():  # a file of which nobody can read the beginning, whoever asks
        (tmp_path / "m.npz").symlink_to(memory)
        said = refusal(session, f"compare {tmp_path / 'm.npz'}")
        assert said == f"cannot read {tmp_path / 'm.npz'}: Input/output error"
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**31 - 1] * 3, "data_offsets": [0, 4]}}).encode()
    assert "as large as" in bad("h.safetensors", struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    assert "damaged or cut off" in bad("c.safetensors", struct.pack("<Q", len(header)) + header + b"\0\0\0\0")


def test_doubles_and_dtypes_that_mlx_does_not_have(tmp_path: Path) -> None:
    session = OpenSession(nnrepl.trace(chain, mx.array([1.0, 2.0])))
    doubles = np.sin(np.array([1.0, 2.0]))
    header = json.dumps(
        {
            "a": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]},
            "b": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [16, 18]},
        }
    ).encode()
    file = tmp_path / "r.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + doubles.tobytes() + b"\0\0")
    shown = said(session, f"compare {file}")
    assert "1 agree" in shown
    assert "of a dtype that MLX does not have: b" in shown
