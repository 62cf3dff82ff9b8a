"""Threads, processes and signals under nnrepl, and Python's own ways of looking at a program."""

from __future__ import annotations

import re
from pathlib import Path

from tests.programs.fidelity import (
    cases,
    check,
    same_surroundings,
    write,
)

__all__ = ["same_surroundings"]


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
        "a compiled function leaves what it takes nothing but the shape of": """
        import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
        mx.random.seed(0)
        model, rest, optimizer = nn.Linear(2, 1), [], optim.SGD(0.1)
        def whole(x):
            _, grads = nn.value_and_grad(model, lambda m, x: m(x).square().mean())(model, x)
            optimizer.update(model, grads)
            rest.extend([mx.zeros_like(x), mx.ones_like(x) + 1, mx.zeros_like(x) + x])
            mx.eval(rest[0])
        mx.compile(whole, inputs=model.state, outputs=model.state)(mx.ones((2, 2)))
        print(rest[0], rest[1], optimizer.state["weight"]["v"], model.weight.shape)
        try: print(rest[2])
        except RuntimeError as error: print(str(error).split(".")[0])
        """,
        "a compiled function leaves tracers": """
        from functools import partial
        import mlx.nn as nn, mlx.optimizers as optim
        def told(look):
            try: print(look())
            except RuntimeError as error: print(str(error).split(".")[0])
        kept, buffer = [], mx.zeros((2,))
        @mx.compile
        def f(x, n):
            global buffer
            y, c = x * 2, mx.zeros((3,))
            kept.extend([x, y, c, n])
            buffer += x
            return y.sum(), c
        print(f(mx.ones((2,)), mx.ones((1,), mx.int32)))
        for one in kept:
            told(lambda: one)
            told(lambda: (one + 1).tolist())
        told(lambda: buffer)
        @mx.compile
        def failing(x):
            kept.append(x * 3)
            raise ValueError("no")
        try: failing(mx.ones((2,)))
        except ValueError as error: print(error)
        told(lambda: kept[-1])
        for given in ({"outputs": 1}, {"inputs": 1, "outputs": 1}, {"inputs": 1}, {}):
            mx.random.seed(1)
            model, opt = nn.Linear(2, 2), optim.SGD(0.1)
            state, learn = [model.state, opt.state], nn.value_and_grad(model, lambda x: model(x).square().mean())
            @partial(mx.compile, **{name: state for name in given})
            def step(x):
                loss, grads = learn(x)
                opt.update(model, grads)
                return loss
            mx.eval(state)
            for _ in range(3):
                told(lambda: step(mx.ones((1, 2))).item())
                told(lambda: mx.eval(state))
            told(lambda: model.weight)
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
