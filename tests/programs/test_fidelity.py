"""A program under nnrepl does what it does under plain Python: the same output, the same errors, the same end.

Each program is written to a directory and run twice, with `python prog.py` and with
`nnrepl --batch -c continue prog.py`; standard output, standard error and exit status must be the same. Most
import `net`, a neighbour that makes a forward pass at once, so that `continue` has been given before the rest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from difflib import unified_diff
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

from tests.support import ROOT, nnrepl_cli, plain_and_traced, plain_python

CONTINUE = ("--batch", "-c", "continue")
EXAMPLES = Path(os.environ.get("MLX_EXAMPLES", "/nowhere"))

NET = '''
"""A small network, and a way to differentiate a loss on it."""
import mlx.core as mx
import mlx.nn as nn

mx.random.seed(0)
model = nn.Linear(2, 1)
x = mx.ones((1, 2))
model(x)


def learn(loss_fn, x=x):
    return nn.value_and_grad(model, loss_fn)(x)
'''


@pytest.fixture(autouse=True)
def _same_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What differs between the two runs by accident only, and the neighbour `net`."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    (tmp_path / "net.py").write_text(NET)


def write(directory: Path, **files: str) -> None:
    """Write Python files: `pkg__train="..."` is pkg/train.py."""
    for name, text in files.items():
        file = directory / (re.sub(r"(?<=[a-z])__(?=[a-z_])", "/", name) + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def both(cwd: Path, *command: str, stdin: str | None = None) -> tuple[CompletedProcess[str], CompletedProcess[str]]:
    """The same command line under plain Python and under nnrepl."""
    plain = plain_python(*command, stdin=stdin, cwd=cwd)
    return plain, nnrepl_cli(*CONTINUE, *command, stdin=stdin, cwd=cwd)


def assert_same(plain: CompletedProcess[str], debugged: CompletedProcess[str]) -> None:
    """Both runs ended and printed alike."""
    for stream in ("stdout", "stderr"):
        expected, found = getattr(plain, stream), getattr(debugged, stream)
        lines = unified_diff(expected.splitlines(), found.splitlines(), "python", "nnrepl", lineterm="", n=1)
        assert found == expected, f"{stream} differs:\n" + "\n".join(lines)
    assert debugged.returncode == plain.returncode


def check(
    directory: Path, program: str, *args: str, stdin: str | None = None, status: int = 0
) -> CompletedProcess[str]:
    """Run a program both ways and compare; `status` guards against a program that is itself wrong."""
    write(directory, prog=program)
    plain, debugged = both(directory, "prog.py", *args, stdin=stdin)
    assert plain.returncode == status, plain.stderr
    assert_same(plain, debugged)
    return plain


def cases(programs: dict[str, str]) -> pytest.MarkDecorator:
    """One test for each program, called as it is called in the table."""
    return pytest.mark.parametrize("program", programs.values(), ids=programs.keys())


# -- how a program is started --------------------------------------------------------------------------------


@cases(
    {
        "empty": "",
        "only comments": "# nothing\n\n# at all\n",
        "silent": "import mlx.core as mx\ny = mx.zeros((2,)) + 1\n",
        "without mlx": "import sys\nprint('out')\nprint('err', file=sys.stderr)\n",
        "no forward pass": "import mlx.core as mx\nc = mx.ones(2) * 3\nprint(c, c.sum().item())\n",
    }
)
def test_programs_without_a_forward_pass(tmp_path: Path, program: str) -> None:
    check(tmp_path, program)


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--epochs", "3", "--help", "--version", "--batch", "--plain=3", "-h"),
        ("-m", "model", "-c", "config", "-x", "file"),
        ("--", "a", "--", "-m", "b", "--"),
        ("a", "-m", "b", "c"),
        ("", "two words", "é", "*", "-"),
    ],
    ids=" ".join,
)
def test_arguments(tmp_path: Path, args: tuple[str, ...]) -> None:
    check(tmp_path, "import net, sys\nprint(sys.argv)\n", *args)


@pytest.mark.parametrize(
    ("args", "status"), [(("-m", "big", "-c", "5", "--batch", "y"), 0), (("--help",), 0), (("--bogus",), 2)]
)
def test_program_with_its_own_options(tmp_path: Path, args: tuple[str, ...], status: int) -> None:
    program = """
import net, argparse
parser = argparse.ArgumentParser(description="Train.")
parser.add_argument("-m", "--model")
parser.add_argument("-c", type=int, default=3)
parser.add_argument("--batch")
print(parser.parse_args())
"""
    check(tmp_path, program, *args, status=status)


@pytest.mark.parametrize("start", ["./prog.py", "../{name}/prog.py", "{path}/prog.py", "link.py"])
def test_where_the_program_finds_itself(tmp_path: Path, start: str) -> None:
    write(tmp_path, prog="import net, os, sys\nprint(sys.argv, __file__, sys.path[0], os.getcwd())\n")
    (tmp_path / "link.py").symlink_to("prog.py")
    path = start.format(name=tmp_path.name, path=tmp_path)
    assert_same(*both(tmp_path, path, "a"))


def test_program_in_another_directory(tmp_path: Path) -> None:
    write(
        tmp_path,
        lib__helper="import os, sys\nprint(__name__, sys.path[0], os.getcwd())\nimport late\n",
        lib__late="from mlx.core import ones, matmul as mm\nprint('late', mm(ones((1, 2)), ones((2, 1))).item())\n",
        lib__prog="import helper, os\nos.chdir('/')\nimport later\nprint(__file__, helper.__file__)\n",
        lib__later="raise ValueError('after chdir')\n",
        lib__net=NET,
    )
    plain, debugged = both(tmp_path, "lib/prog.py")
    assert "after chdir" in plain.stderr
    assert_same(plain, debugged)


def test_what_main_looks_like(tmp_path: Path) -> None:
    program = '''
"""The documentation."""
from __future__ import annotations
import net, sys, types, importlib, __main__
width: Unknown = 3
print(__name__, __doc__, __package__, __spec__ is None, __cached__, type(__loader__).__name__)
print(__annotations__, sorted(globals()))
print(__main__.__dict__ is globals(), sys.modules["__main__"] is __main__, importlib.import_module("__main__").width)
if __name__ == "__main__":
    print(type(__builtins__), __builtins__.len("abc"), type(__main__), __main__)
    import prog
    print(prog is not __main__, prog.width)
'''
    check(tmp_path, program)


PACKAGE = {
    "pkg____init__": "print('init', __name__)\n",
    "pkg____main__": "import sys\nprint(sys.argv, __name__, __package__, __spec__.name, sys.path[0])\n",
    "pkg__train": """
import sys, net
from . import other
from .other import value
print(sys.argv, __name__, __package__, __spec__.name, __file__, sys.path[0], sorted(globals()), value)
if "--fail" in sys.argv:
    raise ValueError("failed")
""",
    "pkg__other": "value = 4\n",
    "single": "import net, sys\nprint(sys.argv, __package__, __spec__.name, __file__)\n",
}


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "pkg.train", "-m", "3", "-c", "x", "--help", "--"),
        ("-m", "pkg.train", "--fail"),
        ("-m", "pkg", "--batch"),
        ("-m", "single"),
    ],
    ids=" ".join,
)
def test_module(tmp_path: Path, command: tuple[str, ...]) -> None:
    write(tmp_path, **PACKAGE)
    plain, debugged = both(tmp_path, *command)
    plain.stderr = re.sub(r'  File "<frozen runpy>".*\n', "", plain.stderr)  # these stand for Python's own start
    assert_same(plain, debugged)


# -- how a program ends --------------------------------------------------------------------------------------


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
    time.sleep(0.3)
    late("thread")
atexit.register(late, "atexit")
weakref.finalize(net.model, print, "finalized")
threading.Thread(target=wait).start()
threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
print("last line")
"""
    write(tmp_path, helper="value = 5\n")
    check(tmp_path, program, "argument")


# -- output and input ----------------------------------------------------------------------------------------


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


# -- threads, processes, signals, event loops ----------------------------------------------------------------


@cases(
    {
        "threads": """
        import threading, queue
        results = {}
        def work(n):
            mx.random.seed(n)
            x = mx.random.normal((3, 2))
            loss, grad = mx.value_and_grad(lambda w: (x @ w).sum())(mx.ones((2, 1)))
            results[n] = loss.item(), grad.tolist()
        def failing(): raise ValueError("in a thread")
        def loss_fn(x):
            thread = threading.Thread(target=lambda: print("worker", mx.ones(3).sum().item(), flush=True))
            thread.start(); thread.join()
            print("in loss")
            return net.model(x).sum()
        print(net.learn(loss_fn))
        for target, args in ((work, (1,)), (work, (2,)), (failing, ())):
            thread = threading.Thread(target=target, args=args); thread.start(); thread.join()
        batches = queue.Queue()
        def loader():
            for i in (0, 1, 2): batches.put(np.full((1, 2), i, dtype=np.float32))
            batches.put(None)
        threading.Thread(target=loader).start()
        while (batch := batches.get()) is not None: print(net.learn(loss_fn, mx.array(batch))[0].item())
        print(results, threading.current_thread() is threading.main_thread(), flush=True)
        os._exit(0)  # MLX 0.32 itself often aborts at the end of a program whose threads have used it
        """,
        "training in a thread": """
        import concurrent.futures
        def train(n):
            mx.random.seed(n)
            model = net.nn.Linear(2, 1)
            loss_fn = lambda x: model(x).sum()
            print("in thread", flush=True)
            return [net.nn.value_and_grad(model, loss_fn)(mx.ones((1, 2)))[0].item() for _ in range(3)]
        with concurrent.futures.ThreadPoolExecutor(1) as pool: print(list(pool.map(train, [1, 2])), flush=True)
        os._exit(0)  # see above
        """,
        "fork": """
        for last in ("os._exit(4)", "sys.exit(3)", "raise ValueError('child')", "pass"):
            sys.stdout.flush()
            child = os.fork()
            if not child:
                print("child", net.learn(lambda x: net.model(x).sum())[0].shape, flush=True)
                exec(last)
                break
            print("parent", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print("end of", "parent" if child else "child")
        """,
        "fork in a loss": """
        def loss_fn(x):
            print("in loss", flush=True)
            child = os.fork()
            if not child:
                print("child", flush=True)
                os._exit(4)
            print("parent", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            return net.model(x).sum()
        net.learn(loss_fn)
        """,
        "multiprocessing": """
        import multiprocessing
        def work(n):
            print("work", n, __name__, flush=True)
            return np.array(mx.ones((n,)) * 2).tolist() if __name__ == "__mp_main__" else n
        if __name__ == "__main__":
            for method in ("fork", "spawn"):
                context = multiprocessing.get_context(method)
                with context.Pool(1) as pool: print(method, pool.map(work, [1, 2]), flush=True)
                process = context.Process(target=work, args=(3,)); process.start(); process.join()
                print(process.exitcode, flush=True)
        """,
        "other programs": """
        import subprocess
        print(sys.executable, flush=True)
        print(subprocess.run([sys.executable, "-c", "import sys; sys.exit('no')"], capture_output=True, text=True))
        subprocess.run([sys.executable, "-c", "import sys; print(sys.argv)", "a"])
        os.system("echo system")
        if len(sys.argv) == 1:
            sys.stdout.flush()
            os.execv(sys.executable, [sys.executable, *sys.argv, "again"])
        print(sys.argv)
        """,
        "signals": """
        import signal, time
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGTERM))
        def handler(number, frame): print("got", signal.Signals(number).name, frame.f_code.co_name)
        for name in (signal.SIGINT, signal.SIGUSR1, signal.SIGALRM): signal.signal(name, handler)
        def loss_fn(x):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGUSR1)
            return net.model(x).sum()
        net.learn(loss_fn)
        signal.setitimer(signal.ITIMER_REAL, 0.05); time.sleep(0.2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try: os.kill(os.getpid(), signal.SIGINT); time.sleep(1)
        except KeyboardInterrupt: print("interrupted")
        """,
        "event loop": """
        import asyncio
        async def batches():
            for i in range(3):
                await asyncio.sleep(0)
                yield mx.full((1, 2), float(i))
        async def train():
            async for batch in batches(): print("loss", net.learn(lambda x: net.model(x).sum(), batch)[0].item())
        async def ticker():
            for i in range(3): print("tick", i); await asyncio.sleep(0)
        async def main():
            await asyncio.gather(train(), ticker())
            print(await asyncio.to_thread(lambda: 3))
        asyncio.run(main())
        """,
    }
)
def test_concurrency(tmp_path: Path, program: str) -> None:
    imports = "import os, sys, net\nimport mlx.core as mx, numpy as np\n"
    check(tmp_path, imports + re.sub(r"^ {8}", "", program, flags=re.MULTILINE))


# -- Python's own ways of looking at a program ---------------------------------------------------------------


def test_classes_in_main(tmp_path: Path) -> None:
    program = '''
import copy, dataclasses, inspect, io, os, pickle, runpy, sys, unittest, doctest
import mlx.core as mx, mlx.nn as nn, numpy as np
from mlx.utils import tree_flatten
mx.random.seed(0)
class Net(nn.Module):
    """A net.

    >>> mx.ones(2) + 1
    array([2, 2], dtype=float32)
    """
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)
    def __call__(self, x):
        return self.layer(x)
@dataclasses.dataclass
class Config:
    width: int = 1
model, a = Net(), mx.arange(4.0)
print(pickle.loads(pickle.dumps(Config(4))), type(pickle.loads(pickle.dumps(model))) is Net, Net.__module__)
print(pickle.loads(pickle.dumps([a, {"x": a}])), copy.copy(a), copy.deepcopy([a, a]))
deep, shallow = copy.deepcopy(model), copy.copy(model)
model.layer.weight = model.layer.weight * 2
print(mx.allclose(deep.layer.weight * 2, model.layer.weight).item(), shallow.layer is model.layer, model)
print(inspect.getsource(Net.__call__), inspect.getsourcelines(Config)[1], inspect.getfile(Net), inspect.getdoc(Net))
print(inspect.getmodule(Net), inspect.currentframe().f_lineno, inspect.signature(Net.__call__), inspect.stack()[0][3])
mx.save("a.npy", a); np.save("n.npy", a); print(mx.load("a.npy"), np.load("n.npy"), mx.load("n.npy"))
mx.savez("a.npz", a=a, b=a + 1); print(sorted(mx.load("a.npz").items()), np.load("a.npz")["b"])
mx.save_safetensors("a.safetensors", {"a": a}, {"k": "v"}); print(mx.load("a.safetensors", return_metadata=True))
mx.save_gguf("a.gguf", {"a": a}); print(mx.load("a.gguf"))
for name in ("m.safetensors", "m.npz"):
    model.save_weights(name); deep.load_weights(name); print(deep.layer.weight, os.path.getsize(name))
print(np.array(a), np.asarray(a).dtype, np.stack([a, a]), memoryview(a).shape, np.ones(4) * a, a * np.ones(4))
namespace = {}
exec("import mlx.core as mx\\ndef f(x): return (x * x).sum()", namespace)
print(mx.grad(namespace["f"])(a), eval("a + 1"), runpy.run_path("other.py")["z"])
print(doctest.testmod())
class Test(unittest.TestCase):
    def test_right(self): self.assertEqual((mx.ones(2) + 1).tolist(), [2, 2])
    def test_wrong(self): self.assertEqual(1, 2)
unittest.main(testRunner=unittest.TextTestRunner(stream=io.StringIO()))
'''
    write(tmp_path, other="import mlx.core as mx\nprint(__name__)\nz = mx.ones(2) + 2\n")
    check(tmp_path, program, status=1)


def test_functions_as_things(tmp_path: Path) -> None:
    """MLX's functions do not bind as methods, hash, compare, and can be kept anywhere."""
    program = """
import dataclasses, functools, operator
from typing import Callable
import mlx.core as mx, mlx.nn as nn
mx.random.seed(0)
class Holder:
    activation = mx.tanh
    gelu = nn.gelu
    compiled = mx.compile(lambda x: x @ x)
    gradient = mx.grad(lambda x: x * x)
@dataclasses.dataclass
class Config:
    activation: Callable = mx.tanh
class Net(nn.Module):
    activation = mx.tanh
    def __init__(self):
        super().__init__()
        self.layer, self.kept = nn.Linear(2, 2), mx.exp
    def __call__(self, x):
        return self.kept(self.activation(self.layer(x))).sum()
x, net = mx.array([0.5]), Net()
table = {mx.tanh: "tanh", nn.gelu: "gelu", mx.array: "array"}
print(table[mx.tanh], mx.tanh == mx.tanh, mx.tanh != mx.exp, mx.array is type(x), isinstance(x, mx.array))
print(functools.partial(mx.sum, axis=0)(x), list(map(mx.exp, [x])), functools.reduce(mx.add, [x, x, x]), sum([x, x]))
print(operator.add(x, x), operator.matmul(x, x), mx.array.sum(x), getattr(x, "exp")(), max([x, x * 2]), abs(-x), -x)
print(mx.tanh.__name__, mx.tanh.__doc__[:30], mx.add.__module__, mx.array.__name__, callable(mx.matmul))
print(nn.value_and_grad(net, lambda x: net(x))(mx.ones((1, 2))))
print(Holder().gelu(x), Holder().compiled(mx.ones((2, 2))), Holder().gradient(mx.array(3.0)))
print(Holder().activation(x), Config().activation(x))
"""
    check(tmp_path, program)


def test_arrays_as_things(tmp_path: Path) -> None:
    program = """
import mlx.core as mx, numpy as np
x = mx.array([1, 2, 3])
y = x
y += 1
print(x, x is y, x == 2, (x > 1).any().item(), not (x > 5).any(), x // 2, x % 2, x ** 2, 2 ** x, x << 1, x & 1, ~x)
a, b, c = x
print(a, b, c, [*x], [v.item() for v in x], len(x), {x: 1}[x], float(x[0]), int(x[1]), bool(x[1]), f"{x[1].item():.2f}")
x[1] = 7; x[mx.array([0, 2])] = mx.array([5, 6]); x = x.at[0].add(1); x *= 2
print(x, x[::-1], x[None], x[..., 0], str(x), repr(x), f"{x}", x.tolist(), x.T, x.dtype, x.shape, x.nbytes, x.real)
print(mx.where(mx.array([True, False]), 1, 2), mx.split(mx.arange(4), 2), mx.meshgrid(mx.arange(2), mx.arange(2)))
print(mx.linalg.norm(mx.ones(4)), mx.fft.fft(mx.ones(4)), mx.einsum("ij,j->i", mx.ones((2, 2)), mx.ones(2)))
print(mx.vmap(lambda x: x * 2)(mx.ones(3)), mx.grad(mx.grad(lambda x: x ** 3))(mx.array(2.0)))
one, two = mx.array(1.0), mx.array(2.0)
print(mx.jvp(lambda x: x * x, [two], [one]), mx.vjp(lambda x: x * x, [two], [one]))
with mx.stream(mx.cpu): print(mx.add(mx.ones(2), 1, stream=mx.cpu))
mx.random.seed(4)
print(mx.random.uniform(shape=(2,)), mx.random.split(mx.random.key(0)), mx.random.normal((2,), key=mx.random.key(2)))
match x.tolist():
    case [first, *rest]: print(first, rest)
"""
    check(tmp_path, program)


def test_star_imports(tmp_path: Path) -> None:
    program = """
from mlx.core import *
from mlx.nn import *
from mlx.core import matmul as mm, array, grad
import mlx.core, mlx.core as mx, mlx.nn as nn
print(mm(ones((2, 2)), ones((2, 2))), grad(lambda x: sum(x * x))(array([1.0, 2.0])), mx is mlx.core, mx.array is array)
class Net(Module):
    def __init__(self): super().__init__(); self.w = ones(2)
    def __call__(self, x): return self.w * x
net = Net()
print(nn.value_and_grad(net, lambda x: net(x).sum())(ones(2)))
"""
    check(tmp_path, program)


@cases(
    {
        "print_exc": "try: net.learn(bad)\nexcept ValueError: traceback.print_exc()",
        "logging.exception": "try: mx.ones(2) + mx.ones(3)\nexcept ValueError: logging.exception('failed')",
        "format_exc": "try: net.learn(bad)\nexcept ValueError as e: print(traceback.format_exc())",
        "exception in a thread": "t = threading.Thread(target=bad, args=(net.x,)); t.start(); t.join()",
        "print_stack": "traceback.print_stack()",
    }
)
def test_the_stack_as_the_program_sees_it(tmp_path: Path, program: str) -> None:
    imports = "import inspect, logging, sys, threading, traceback, warnings, net\nimport mlx.core as mx\n"
    check(tmp_path, f"{imports}def bad(x): return net.model(mx.ones((1, 3)) + x)\n{program}\n")


def test_generators_recursion_and_context_managers(tmp_path: Path) -> None:
    program = """
import contextlib, random, sys, net
import mlx.core as mx, mlx.nn as nn, numpy as np
random.seed(3); np.random.seed(3); mx.random.seed(3)
drop = nn.Dropout(0.5)
@contextlib.contextmanager
def timed():
    print("enter")
    try: yield
    finally: print("exit")
def batches():
    try:
        for i in range(5): yield mx.full((1, 2), i)
    finally: print("closed")
def loss_fn(x):
    with timed(): return drop(net.model(x) + random.random() + float(np.random.rand())).sum()
for i, batch in enumerate(batches()):
    print(net.learn(loss_fn, batch)[0].item(), random.random(), np.random.rand(), mx.random.uniform().item())
    if i == 1: break
def coroutine():
    total = 0
    while True: total += net.learn(loss_fn, (yield total))[0].item()
c = coroutine(); next(c); print(c.send(mx.ones((1, 2))), c.send(mx.zeros((1, 2)))); c.close()
def deep(x, n): return x if n == 0 else deep(mx.sin(x), n - 1)
print(mx.grad(lambda x: deep(x, 900))(mx.array(1.0)), deep(mx.array(1.0), 900))
sys.setrecursionlimit(20000)
print(deep(mx.array(1.0), 5000))
print(*(f"{name} {g.sum().item():.4f}" for name, g in net.learn(loss_fn)[1].items()))
"""
    check(tmp_path, program)


# -- training ------------------------------------------------------------------------------------------------


def test_every_style_of_update(tmp_path: Path) -> None:
    program = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map
mx.random.seed(1)
X = mx.random.normal((16, 4)); Y = X[:, :2] * X[:, 2:]
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 8), nn.Linear(8, 2)]
    def __call__(self, x):
        return self.layers[1](nn.gelu(self.layers[0](x)))
def loss_fn(model, x, y):
    return nn.losses.mse_loss(model(x), y)
model = Net(); learn = nn.value_and_grad(model, loss_fn)
for optimizer in (optim.SGD(0.1, momentum=0.9), optim.AdamW(optim.cosine_decay(1e-2, 10)), optim.Lion(1e-3),
                  optim.RMSprop(1e-2), optim.Adafactor(), optim.Adagrad(0.1)):
    for i in range(3):
        loss, grads = learn(model, X, Y)
        grads, norm = optim.clip_grad_norm(grads, 1.0)
        if i == 1: model.update(optimizer.apply_gradients(grads, model))
        else: optimizer.update(model, grads)
        mx.eval(model.parameters(), optimizer.state)
        print(type(optimizer).__name__, loss.item(), norm.item(), len(optimizer.state))
for _ in range(2):
    loss, grads = learn(model, X, Y)
    model.update(tree_map(lambda p, g: p - 0.1 * g, model.parameters(), grads)); print(loss)
for _ in range(2):
    loss, grads = learn(model, X, Y); print(loss)
    for layer, of in zip(model.layers, grads["layers"]):
        for name in of: layer[name] -= 0.1 * of[name]
def functional(params, x, y):
    model.update(params); return loss_fn(model, x, y)
params = model.trainable_parameters()
for _ in range(2):
    loss, grads = mx.value_and_grad(functional)(params, X, Y)
    params = tree_map(lambda p, g: p - 0.1 * g, params, grads)
    print(loss.item(), [(name, value.sum().item()) for name, value in tree_flatten(params)])
w = mx.zeros((4, 2)); gradient = mx.grad(lambda w: ((X @ w - Y) ** 2).mean())
for _ in range(3): w = w - 0.1 * gradient(w)
print(w, mx.value_and_grad(lambda a, *, b: ((a * b).sum(), b), argnums=(0,), argnames=["b"])(w, b=w))
"""
    check(tmp_path, program)


def test_compiled_steps(tmp_path: Path) -> None:
    """A compiled body runs once for each kind of arguments: its prints say so."""
    program = """
from functools import partial
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
@mx.compile
def product(x):
    print("tracing product")
    return x @ x
for n in (2, 2, 3, 2): print(product(mx.ones((n, n))).sum().item())
model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1)); optimizer = optim.SGD(0.1)
def loss_fn(model, x):
    print("tracing loss")
    return (model(x) @ mx.ones((1, 1))).sum()
state = [model.state, optimizer.state, mx.random.state]
@partial(mx.compile, inputs=state, outputs=state)
def step(x):
    print("tracing step")
    loss, grads = nn.value_and_grad(model, loss_fn)(model, x)
    optimizer.update(model, grads)
    return loss
for n in (4, 4, 4, 5):
    loss = step(mx.ones((n, 2)))
    mx.eval(state)
    print(loss.item(), optimizer.step.item())
mx.disable_compile()
for _ in range(2): product(mx.ones((2, 2)))
mx.enable_compile()
for _ in range(2): product(mx.ones((2, 2)))
@mx.custom_function
def doubled(x): return x * 2
@doubled.vjp
def doubled_vjp(primals, cotangent, output): print("vjp"); return cotangent * 7
print(mx.grad(lambda x: doubled(x).sum())(mx.ones(2)))
def checkpointed(x): print("checkpoint"); return mx.exp(x)
print(mx.grad(lambda x: mx.checkpoint(checkpointed)(x).sum())(mx.ones(2)))
"""
    check(tmp_path, program)


def _trained(w: mx.array, x: mx.array) -> mx.array:
    """The losses of three compiled steps, the parameter being an argument."""

    @mx.compile
    def step(w: mx.array) -> tuple[mx.array, mx.array]:
        loss, grad = mx.value_and_grad(lambda w: (x @ w).square().sum())(w)
        return w - 0.1 * grad, loss

    losses = []
    for _ in range(3):
        w, loss = step(w)
        losses.append(loss)
    return mx.stack(losses)


def _trained_by_state(x: mx.array) -> mx.array:
    """The losses of three compiled steps, model and optimizer being captured."""
    model, optimizer = nn.Linear(2, 1), optim.SGD(0.1)
    state = [model.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(x: mx.array) -> mx.array:
        loss, grads = nn.value_and_grad(model, lambda x: model(x).square().sum())(x)
        optimizer.update(model, grads)
        return loss

    return mx.stack([step(x) for _ in range(3)])


def _dropped_out(x: mx.array) -> mx.array:
    """Three draws of a compiled dropout that has the random state among its inputs and outputs."""
    drop = partial(mx.compile, inputs=mx.random.state, outputs=mx.random.state)(nn.Dropout(0.5))
    return mx.stack([drop(x) for _ in range(3)])


@pytest.mark.parametrize(
    ("fn", "shapes"), [(_trained, [(2, 1), (3, 2)]), (_trained_by_state, [(3, 2)]), (_dropped_out, [(32,)])]
)
def test_compiled_functions_that_run_again(fn: Callable[..., mx.array], shapes: list[tuple[int, ...]]) -> None:
    plain_and_traced(fn, [mx.ones(shape) for shape in shapes], wrt=None)


# -- scripts that other people wrote -------------------------------------------------------------------------

SYNTHETIC = """
import random, sys, types
import mlx.core as mx, numpy as np
random.seed(0); np.random.seed(0); mx.random.seed(0)
def module(name, **members): sys.modules[name] = types.ModuleType(name); vars(sys.modules[name]).update(members)
class Anything(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return self
    def __call__(self, *args, **kwargs): return self
    def __getitem__(self, key): return self
    def __iter__(self): return iter((self, self))
class Batches(list):
    def reset(self): pass
class Steps(list):
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def set_postfix(self, **values): print(values)
matplotlib = Anything("matplotlib")
sys.modules.update({"matplotlib": matplotlib, "matplotlib.pyplot": matplotlib})
noise = np.random.default_rng(0)
images, labels = noise.random((600, 784), dtype=np.float32), noise.integers(0, 10, 600, dtype=np.uint32)
words, points = noise.integers(0, 50, 400, dtype=np.uint32), noise.random((1000, 2), dtype=np.float32)
module("mnist", mnist=lambda: (images[:512], labels[:512], images[512:], labels[512:]))
module("tqdm", trange=lambda n: Steps(range(n)))
module("sklearn", datasets=types.SimpleNamespace(make_moons=lambda **_: (points, None)),
       preprocessing=types.SimpleNamespace(StandardScaler=lambda: types.SimpleNamespace(fit_transform=lambda x: x)))
module("datasets", load_dataset=lambda _: (range(50), words, words[:100], words[:100]),
       load_data=lambda _: (mx.array(images[:, :12]), mx.array(labels[:600]) % 7, mx.eye(600)),
       train_val_test_mask=lambda: (mx.arange(140), mx.arange(200, 500), mx.arange(500, 600)))
batches = Batches([{"image": noise.random((2, 32, 32, 3), dtype=np.float32), "label": labels[:2]}])
module("dataset", get_cifar10=lambda _: (batches, batches))
"""

TIMES = re.compile(r"(Time:?|It/sec|took|Throughput:) [\d.]+")


@pytest.mark.skipif(not EXAMPLES.exists(), reason="MLX_EXAMPLES names no checkout of ml-explore/mlx-examples")
@pytest.mark.parametrize(
    "command",
    [
        "mnist/main.py",
        "normalizing_flow/main.py --cpu --n_steps 3 --d_hidden 8",
        "transformer_lm/main.py --context_size 16 --num_blocks 2 --dim 16 --num_heads 2 --num_iters 12"
        " --steps_per_report 3 --steps_per_eval 6 --eval_test",
        "transformer_lm/main.py --context_size 16 --num_blocks 2 --dim 16 --num_heads 2 --num_iters 2"
        " --steps_per_report 1 --checkpoint",
        "gcn/main.py --epochs 4",
        "cifar/main.py --cpu --epochs 1",
    ],
)
def test_foreign_training_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Scripts of mlx-examples on synthetic data, which is put in their way from outside."""
    (tmp_path / "sitecustomize.py").write_text(SYNTHETIC)
    surroundings = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "MLX_DISABLE_COMPILE": "1"}
    for name, text in surroundings.items():
        monkeypatch.setenv(name, text)
    script = [str(EXAMPLES / command.split()[0]), *command.split()[1:]]
    plain = plain_python(*script, cwd=tmp_path)
    debugged = nnrepl_cli(*CONTINUE, *script, cwd=tmp_path, env=surroundings)
    assert plain.returncode == 0, plain.stderr
    assert len(plain.stdout.splitlines()) >= 2
    for result in (plain, debugged):
        result.stdout = TIMES.sub("TIME", result.stdout)
    assert_same(plain, debugged)
