"""How a program ends under nnrepl: exit status, tracebacks, exceptions, what runs after the last line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.programs.fidelity import (
    assert_same,
    both,
    cases,
    check,
    same_surroundings,
    write,
)

__all__ = ["same_surroundings"]


@pytest.mark.parametrize(
    ("last", "status"),
    [
        ("sys.exit()", 0),
        ("sys.exit(3)", 3),
        ("sys.exit(300)", 44),
        ("sys.exit('a message')", 1),
        ("sys.exit((1, 2.5))", 1),
        ("print('lost'); os._exit(7)", 7),
        ("print('shown', flush=True); os._exit(7)", 7),
        ("raise KeyboardInterrupt", -2),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(1)", -2),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(1)", -15),
        ("os.abort()", -6),
        ("class Stop(BaseException): pass\nraise Stop('stop')", 1),
        ("raise ValueError('two\\nlines')", 1),
        ("assert False, 'why'", 1),
        ("exec('a b')", 1),
        ("import broken", 1),
        ("def deep(n): return deep(n + 1)\ntry: deep(0)\nexcept RecursionError: sys.exit('caught')", 1),
        ("sys.excepthook = lambda kind, error, tb: print('hook', kind, error, tb.tb_lineno)\n1/0", 1),
        ("def hook(*_): raise TypeError('in hook')\nsys.excepthook = hook\n1/0", 1),
        ("sys.stdout.flush(); sys.stdout.close()", 0),
        ("try: 1/0\nexcept ZeroDivisionError as e: raise KeyError('k') from e", 1),
        ("e = ValueError('a'); e.add_note('a note'); raise e", 1),
        ("raise ExceptionGroup('several', [ValueError(1), TypeError(2)])", 1),
    ],
)
def test_the_end(tmp_path: Path, last: str, status: int) -> None:
    write(tmp_path, broken="print(1\n")
    check(tmp_path, f"import net, os, signal, sys, time\nprint('before', flush=True)\n{last}\n", status=status)


def test_endless_recursion(tmp_path: Path) -> None:
    """The number of frames that fit is Python's business; everything else is the same."""
    write(tmp_path, prog="import net\ndef deep(n):\n    return deep(n + 1)\ndeep(0)\n")
    plain, debugged = both(tmp_path, "prog.py")
    for result in (plain, debugged):
        result.stderr = re.sub(r"repeated \d+ more", "repeated", result.stderr)
    assert_same(plain, debugged)


@cases(
    {
        "raises": "if seen: raise ValueError('in loss')",
        "shape mismatch": "net.model(mx.ones((1, 3)))",
        "sys.exit": "sys.exit(5)",
        "sys.exit with a message": "sys.exit('left')",
        "os._exit": "print('flushed', flush=True); print('lost'); os._exit(9)",
        "KeyboardInterrupt": "raise KeyboardInterrupt",
        "chained": "try: x @ x\n    except ValueError as e: raise RuntimeError('wrapped') from e",
        "in an except block": "try: x @ x\n    except ValueError: x + mx.ones((3, 3))",
        "not a scalar": "return x * 2",
        "not an array": "return 3.0",
    }
)
def test_the_end_in_a_loss(tmp_path: Path, program: str) -> None:
    text = f"""
import net, os, sys
import mlx.core as mx
seen = []
def loss_fn(x):
    print("in loss")
    {program}
    seen.append(x)
    return net.model(x).sum()
try:
    net.learn(loss_fn)
    print("again")
    net.learn(loss_fn)
finally:
    print("finally")
"""
    write(tmp_path, prog=text)
    plain, debugged = both(tmp_path, "prog.py")
    assert plain.returncode
    assert_same(plain, debugged)


@cases(
    {
        "operator": "mx.ones((2, 3)) + mx.ones((4,))",
        "wrong type": "mx.matmul('a', 3)",
        "unknown name": "mx.nosuch",
        "in a module": "nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 1))(mx.ones((1, 2)))",
        "in vmap": "mx.vmap(lambda x: x @ mx.ones((9, 9)))(mx.ones((3, 3)))",
        "in a compiled function": "mx.compile(lambda x: x @ mx.ones((9, 9)))(mx.ones((3, 3)))",
        "in grad": "mx.grad(lambda x: (x * 2).sum())(3)",
        "in an optimizer": "optim.SGD(0.1).update(net.model, {'weight': mx.ones((7, 7))})",
        "in an event loop": "import asyncio\nasync def main(): mx.ones(2) @ mx.ones(3)\nasyncio.run(main())",
        "group of caught errors": """
def error(n):
    try: mx.ones(2) + mx.ones(n)
    except ValueError as e: return e
raise ExceptionGroup("all", [error(3), error(4)])
""",
    }
)
def test_uncaught_mlx_error(tmp_path: Path, program: str) -> None:
    text = f"import net\nimport mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim\n{program}\n"
    check(tmp_path, text, status=1)


def test_exceptions_that_the_program_catches(tmp_path: Path) -> None:
    program = """
import net
import mlx.core as mx
def loss_fn(x):
    try:
        x @ mx.ones((5, 5))
    except ValueError as error:
        print("inner", error)
    if x.size > 2:
        return net.model(mx.ones((1, 9)))
    return net.model(x).sum()
for n in (2, 3, 2):
    try:
        print(net.learn(loss_fn, mx.ones((1, n)))[0].item())
    except ValueError as error:
        print("outer", type(error), error, error.args, error.__context__)
for text in ("mx.nosuch", "mx.ones(3).nosuch", "mx.ones(3) + 'x'", "mx.ones(3) + object()", "mx.array([[1], [2, 3]])",
             "mx.ones(3)['a']", "len(mx.array(1))", "list(mx.array(1))", "mx.ones((2, 2)).item()", "mx.matmul(1, 2)",
             "mx.softmax(mx.ones(3), axis=4)", "mx.sum(mx.ones(3), bogus=4)", "mx.grad(3)", "mx.array(1, 2, 3, 4)",
             "mx.ones(3).reshape(2)", "float(mx.ones(3))", "mx.grad(lambda x: x)(mx.ones(2))", "mx.compile(3)"):
    try:
        print(text, eval(text))
    except Exception as error:
        print(text, type(error).__name__, error)
"""
    check(tmp_path, program)


def test_after_the_last_line(tmp_path: Path) -> None:
    """Handlers of `atexit`, finalizers and threads that go on still live in the program's world."""
    program = """
import atexit, pickle, sys, threading, time, weakref, net
import mlx.core as mx
class Config:
    pass
def late(name):
    import __main__, helper
    print(name, __main__.Config is Config, __main__.__dict__ is globals(), sys.argv, sys.path[0], mx.ones(2).shape)
    print(name, type(pickle.loads(pickle.dumps(Config()))) is Config, helper.value)
def wait():
    said.wait()
    time.sleep(0.3)
    late("thread")
atexit.register(late, "atexit")
weakref.finalize(net.model, print, "finalized")
said = threading.Event()
threading.Thread(target=wait).start()
threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
print("last line", flush=True)
said.set()
"""
    write(tmp_path, helper="value = 5\n")
    check(tmp_path, program, "argument")
