"""What a program prints and reads under nnrepl."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.programs.fidelity import (
    cases,
    check,
    same_surroundings,
    write,
)
from tests.support import nnrepl_cli, plain_python

__all__ = ["same_surroundings"]


def test_order_of_output(tmp_path: Path) -> None:
    program = """
import net, io, sys, contextlib
print("setup")
def loss_fn(x):
    print("in loss", end=" ")
    print("to stderr", file=sys.stderr)
    sys.stdout.write("no newline")
    sys.stdout.writelines(["\\n", "lines\\n"])
    sys.stdout.flush()
    sys.stdout.buffer.write("raw é\\n".encode())
    sys.stdout.buffer.flush()
    with contextlib.redirect_stdout(io.StringIO()) as kept:
        print("captured")
    z = net.model(x)
    print(z.tolist(), kept.getvalue(), "漢字 🎉", sep="|")
    print("\\rprogress", end="\\r\\n", flush=True)
    return z.sum()
for epoch in range(3):
    print("epoch", epoch, end="\\r", flush=True)
    loss, grads = net.learn(loss_fn)
    print("loss", loss.item(), grads["weight"])
print("no newline at the end", end="")
"""
    check(tmp_path, program)


@cases(
    {
        "saved": """
        kept = []
        def loss_fn(x):
            kept.append(sys.stdout)
            print("first", file=kept[0])
            return net.model(x).sum()
        net.learn(loss_fn)
        print("later", file=kept[0], flush=True)
        net.learn(loss_fn)
        """,
        "attributes": """
        def loss_fn(x):
            out = sys.stdout
            print(out.name, out.mode, out.encoding, out.errors, out.line_buffering, out.newlines, out.fileno())
            print(out.isatty(), out.closed, out.writable(), out is sys.__stdout__, out.buffer.name, type(out))
            out.reconfigure(line_buffering=True)
            return net.model(x).sum()
        net.learn(loss_fn)
        print(sys.stdout.line_buffering, sys.stdout is sys.__stdout__)
        """,
        "wrapped inside": """
        class Tee:
            def __init__(self, stream): self.stream = stream
            def write(self, text): return self.stream.write(text.upper())
            def flush(self): self.stream.flush()
        def loss_fn(x):
            sys.stdout = Tee(sys.stdout)
            print("wrapped")
            return net.model(x).sum()
        net.learn(loss_fn)
        print("still wrapped")
        sys.stdout = sys.stdout.stream
        print("no longer")
        """,
        "wrapped before": """
        class Tee:
            def __init__(self, stream): self.stream, self.count = stream, 0
            def write(self, text): self.count += 1; return self.stream.write(text.upper())
            def __getattr__(self, name): return getattr(self.stream, name)
        sys.stdout = Tee(sys.stdout)
        def loss_fn(x): print("in loss"); return net.model(x).sum()
        net.learn(loss_fn)
        print("after", sys.stdout.count)
        """,
        "to a file": """
        def loss_fn(x): print("in loss"); return net.model(x).sum()
        with open("log.txt", "w") as file, contextlib.redirect_stdout(file):
            print("before"); net.learn(loss_fn); print("after")
        sys.stdout = open("log2.txt", "w")
        net.learn(loss_fn); sys.stdout.close(); sys.stdout = sys.__stdout__
        print(open("log.txt").read(), open("log2.txt").read())
        """,
        "none at all": """
        def loss_fn(x): print("nowhere"); return net.model(x).sum()
        sys.stdout = None
        net.learn(loss_fn)
        sys.stdout = sys.__stdout__
        print("here")
        """,
        "logging set up in the loss": """
        def loss_fn(x):
            logging.basicConfig(stream=sys.stdout, level="INFO", format="%(filename)s:%(lineno)d %(message)s")
            logging.info("in loss")
            return net.model(x).sum()
        for _ in range(2):
            net.learn(loss_fn)
            logging.info("outside")
        """,
        "logging among prints": """
        logging.basicConfig(stream=sys.stdout, level="INFO", format="%(message)s")
        def loss_fn(x):
            print("1 print"); logging.info("2 log"); print("3 print")
            return net.model(x).sum()
        net.learn(loss_fn)
        """,
        "below Python": """
        def loss_fn(x):
            print("1 print", flush=True); os.write(1, b"2 os\\n"); subprocess.run(["echo", "3 echo"])
            sys.__stdout__.write("4 original\\n"); print("5 print")
            return net.model(x).sum()
        net.learn(loss_fn)
        """,
        "redirected below Python": """
        file, kept = os.open("log.txt", os.O_CREAT | os.O_WRONLY), os.dup(1)
        def loss_fn(x):
            print("to the pipe", flush=True)
            os.dup2(file, 1); print("to the file", flush=True); os.dup2(kept, 1)
            return net.model(x).sum()
        net.learn(loss_fn)
        print(open("log.txt").read())
        """,
        "progress bars": """
        from tqdm import tqdm
        from rich.progress import track
        def loss_fn(x): return net.model(x).sum()
        for i in tqdm(range(3), bar_format="{l_bar}{n_fmt}", file=sys.stdout):
            net.learn(loss_fn)
            tqdm.write("written", file=sys.stdout)
        for i in track(range(3), description="rich"):
            print("loss", net.learn(loss_fn)[0].item())
        """,
    }
)
def test_standard_output(tmp_path: Path, program: str) -> None:
    imports = "import contextlib, io, logging, os, subprocess, sys, net\n"
    check(tmp_path, imports + re.sub(r"^ {8}", "", program, flags=re.MULTILINE))


WRAPPED = """
import codecs, io, os, sys
import mlx.core as mx
w, kept = mx.array([1.0, 2.0]), []
ways = (
    lambda: os.fdopen(sys.__stdout__.fileno(), "w", buffering=1),
    lambda: open(1, "w", 1, closefd=False),
    lambda: open("/dev/stdout", "w", 1),
    lambda: io.TextIOWrapper(open(sys.__stdout__.fileno(), "wb", 0), write_through=True),
    lambda: codecs.getwriter("utf8")(sys.__stdout__.buffer),
    lambda: io.TextIOWrapper(sys.__stdout__.buffer, encoding="utf-8", line_buffering=True),
    lambda: io.TextIOWrapper(sys.__stdout__.detach(), encoding="utf-8", line_buffering=True),
)
for way in ways:
    kept.append(sys.stdout)
    sys.stdout = way()
    print(len(kept), "set up")
    loss, grad = mx.value_and_grad(lambda w: (w * w).sum())(w)
    w = w - 0.1 * grad
    print(len(kept), f"{loss.item():.4f}")
"""


def test_a_stream_that_the_program_wraps(tmp_path: Path) -> None:
    """It prints once, however often the program runs again; no wrapper takes the stream of the prompt along."""
    (tmp_path / "wrapped.py").write_text(WRAPPED)
    plain = plain_python("wrapped.py", cwd=tmp_path).stdout.splitlines()
    lines = ["continue", "goto step 3", "goto start", "w = w * 2", "p 'edited'", "continue", "p w.shape", "quit"]
    first, edited = nnrepl_cli("wrapped.py", stdin="\n".join(lines), cwd=tmp_path).stdout.split("\n'edited'\n")
    assert [line for line in first.splitlines() if re.match(r"\d [s\d]", line)] == plain
    again = [line for line in edited.splitlines() if re.match(r"\d [s\d]", line)]
    assert [line[:2] for line in again] == [line[:2] for line in plain[1:]]
    assert again[0] == "1 20.0000"
    assert edited.count("(2,)") == 1


def test_a_descriptor_that_the_program_closes(tmp_path: Path) -> None:
    """The program cannot print any more, as under Python; the prompt can."""
    (tmp_path / "shut.py").write_text(
        "import os\nimport mlx.core as mx\nw = mx.array([2.0])\nprint('seen', flush=True)\nos.close(1)\n"
        "try:\n    print('lost', flush=True)\nexcept OSError as error:\n    w = w * error.errno\n"
    )
    shown = nnrepl_cli(
        "shut.py", stdin="continue\np w.item()\nrestart\ncontinue\np w.item()\nquit", cwd=tmp_path
    ).stdout
    assert shown.count("seen") == 2
    assert "lost" not in shown
    assert shown.count("w.item() = 18") == 2


def test_logging_and_warnings(tmp_path: Path) -> None:
    program = """
import net, logging, warnings
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(filename)s:%(lineno)d %(funcName)s %(message)s")
def old():
    warnings.warn("old is old", stacklevel=2)
def loss_fn(x):
    logging.info("in loss")
    warnings.warn("in loss")
    warnings.warn("not shown", DeprecationWarning)
    old()
    return net.model(x).sum()
for _ in range(2):
    net.learn(loss_fn)
warnings.warn("shown", DeprecationWarning)
old()
logging.captureWarnings(True)
warnings.warn("captured")
try:
    1 / 0
except ZeroDivisionError:
    logging.exception("caught")
"""
    check(tmp_path, program)


def test_standard_input(tmp_path: Path) -> None:
    program = """
import net, sys
print("hello", input("name? "))
def loss_fn(x):
    factor = float(input("factor? "))
    print(factor)
    return net.model(x * factor).sum()
net.learn(loss_fn)
print(sys.stdin.readline(), sys.stdin.isatty(), sys.stdin.fileno())
breakpoint()
print(repr(sys.stdin.read()), sys.stdin.buffer.read())
try:
    input()
except EOFError as error:
    print(error)
sys.stdin.close()
try:
    input()
except ValueError as error:
    print(error)
"""
    check(tmp_path, program, stdin="Ada\n3\nline\np 1 + 1\nc\nthe\nrest")


@pytest.mark.parametrize(
    "commands",
    [
        ("continue",),
        ("step", "step", "back", "step 3", "rewind", "continue"),
        ("next 2", "reverse-next", "goto end", "goto start", "finish", "continue", "back 4", "continue"),
        ("until backward", "list", "print z", "reverse-continue", "where", "print grad(z)", "goto update", "continue"),
    ],
    ids=" ".join,
)
def test_moving_about_changes_nothing(tmp_path: Path, commands: tuple[str, ...]) -> None:
    """However one steps, the program prints each of its lines once, in order, and computes the same."""
    program = """
import net
import mlx.core as mx, mlx.nn as nn
mx.random.seed(3)
def loss_fn(x):
    print(": in loss")
    z = net.model(x) + mx.random.normal((1, 1))
    print(":", z.tolist())
    return nn.Dropout(0.5)(z).square().sum()
for epoch in range(3):
    loss, grads = net.learn(loss_fn)
    net.model.weight = net.model.weight - 0.1 * grads["weight"]
    print(":", epoch, loss.item(), mx.random.uniform().item(), net.model.weight.tolist())
"""
    write(tmp_path, prog=program)
    plain = plain_python("prog.py", cwd=tmp_path)
    given = [word for command in commands for word in ("-c", command)]
    debugged = nnrepl_cli("--batch", *given, "prog.py", cwd=tmp_path)
    assert [line for line in debugged.stdout.splitlines() if line.startswith(":")] == plain.stdout.splitlines()
    assert (debugged.stderr, debugged.returncode) == ("", 0)
