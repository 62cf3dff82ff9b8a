"""Training scripts as a user would write them; they time their own steps and print what they found."""

from __future__ import annotations

from dataclasses import dataclass

_HEAD = """\
import json, os, resource, sys, time
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim

mx.random.seed(0)
"""


def _llama(shape: str, half: bool = False, **sizes: int) -> str:
    """The source of a Llama, by the shape of its tokens; `half` in bfloat16, with its loss in float32."""
    return f"""
from mlx_lm.models.llama import Model, ModelArgs
model = Model(ModelArgs(
    model_type="llama", rms_norm_eps=1e-5, {", ".join(f"{name}={size}" for name, size in sizes.items())},
))
{"model.set_dtype(mx.bfloat16)" if half else ""}
tokens = mx.random.randint(0, {sizes["vocab_size"]}, {shape})
batch = tokens[:, :-1], tokens[:, 1:]

def loss_fn(x, y):
    return nn.losses.cross_entropy(model(x){".astype(mx.float32)" if half else ""}, y, reduction="mean")
"""


_MODELS = {
    "mlp": """
model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
batch = mx.random.normal((32, 16)), mx.random.randint(0, 10, (32,))

def loss_fn(x, y):
    return nn.losses.cross_entropy(model(x), y, reduction="mean")
""",
    "tiny": """
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
batch = mx.random.normal((8, 4)), mx.random.normal((8, 2))

def loss_fn(x, y):
    return mx.mean(mx.square(model(x) - y))
""",
    "by hand": """
w, v = 0.3 * mx.random.normal((4, 8)), 0.3 * mx.random.normal((8, 2))
x, y = mx.random.normal((8, 4)), mx.random.normal((8, 2))

def loss_fn(w, v):
    return mx.mean(mx.square(mx.tanh(x @ w) @ v - y))

gradient = mx.value_and_grad(loss_fn, argnums=(0, 1))

def one(k):
    global w, v
    loss, (dw, dv) = gradient(w, v)
    w, v = w - 0.01 * dw, v - 0.01 * dv
    mx.eval(loss, w, v)
    return loss
""",
    "turns": """
w, v = 0.3 * mx.random.normal((4, 8)), 0.3 * mx.random.normal((8, 4))
state = mx.random.normal((8, 4))

def one(k):
    global state
    state = mx.tanh(mx.tanh(state @ w) @ v) + 0.5 * state
    mx.eval(state)
    return state[0, 0]
""",
    "mlp, large": """
model = nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
batch = mx.random.normal((128, 784)), mx.random.randint(0, 10, (128,))

def loss_fn(x, y):
    return nn.losses.cross_entropy(model(x), y, reduction="mean")
""",
    "llama": _llama(
        "(2, 33)",
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=256,
    ),
    "llama, d256": _llama(
        "(8, 129)",
        hidden_size=256,
        num_hidden_layers=4,
        intermediate_size=688,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=4096,
    ),
    "llama, d768": _llama(
        "(4, 513)",
        half=True,
        hidden_size=768,
        num_hidden_layers=12,
        intermediate_size=2048,
        num_attention_heads=12,
        num_key_value_heads=12,
        vocab_size=32000,
    ),
    "recurrent": """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(8, 16)
        self.out = nn.Linear(16, 4)

    def __call__(self, x):
        return self.out(self.rnn(x)[:, -1])

model = Net()
batch = mx.random.normal((4, 24, 8)), mx.random.randint(0, 4, (4,))

def loss_fn(x, y):
    return nn.losses.cross_entropy(model(x), y, reduction="mean")
""",
    "resnet": """
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm(width), nn.BatchNorm(width)

    def __call__(self, x):
        return nn.relu(x + self.bn2(self.conv2(nn.relu(self.bn1(self.conv1(x))))))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = [Block(8) for _ in range(4)]
        self.out = nn.Linear(8, 10)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.out(x.mean((1, 2)))

model = Net()
batch = mx.random.normal((4, 16, 16, 3)), mx.random.randint(0, 10, (4,))

def loss_fn(x, y):
    return nn.losses.cross_entropy(model(x), y, reduction="mean")
""",
}

_OPTIMIZER = """
optimizer = optim.Adam(learning_rate=1e-3)
mx.eval(model.parameters())
gradient = nn.value_and_grad(model, loss_fn)

{decorator}
def step(x, y):
    loss, grads = gradient(x, y)
    optimizer.update(model, grads)
    return loss

def one(k):
    loss = step(*batch)
    mx.eval(model.state, optimizer.state, loss)
    return loss
"""

_GENERATION = """
from mlx_lm.generate import generate_step
mx.eval(model.parameters())
prompt = mx.array([1, 2, 3, 4])
stream = generate_step(prompt, model, max_tokens=10_000)

def one(k):
    token, _ = next(stream)
    return mx.array(token)
"""

_LOOP = """
def resident():
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

cpu, wall, memory = [], [], {{}}
for k in range({steps}):
    before = time.process_time(), time.perf_counter()
    loss = one(k)
    cpu.append(time.process_time() - before[0])
    wall.append(time.perf_counter() - before[1])
    if k % {every} == 0:
        print("step", k, loss.item())
    if k + 1 in {marks}:
        memory[k + 1] = resident(), mx.get_active_memory()
print("last", loss.item())
print("BENCH", json.dumps(dict(cpu=cpu, wall=wall, memory=memory)))
"""


@dataclass(frozen=True)
class Workload:
    """A script and how often it repeats what is timed.

    Attributes:
        name: What it is called in the table.
        model: Which of the models it has.
        steps: How many steps it makes.
        budget: The ratio to plain Python that its steps may have.
        compiled: Whether its step is compiled.
        what: What it repeats: "step" with an optimizer, "token", or what the model itself does: "step by hand", "turn".
        marks: After how many steps it looks at its memory.
    """

    name: str
    model: str
    steps: int
    budget: float
    compiled: bool = False
    what: str = "step"
    marks: tuple[int, ...] = ()

    def source(self) -> str:
        """The script."""
        state = "state = [model.state, optimizer.state]\n@mx.compile(inputs=state, outputs=state)"
        decorator = state.replace("@mx.compile(", "@partial(mx.compile, ") if self.compiled else ""
        body = {"step": _OPTIMIZER.format(decorator=decorator), "token": _GENERATION}.get(self.what, "")
        head = _HEAD + ("from functools import partial\n" if self.compiled else "")
        loop = _LOOP.format(steps=self.steps, every=max(1, self.steps // 4), marks=self.marks)
        return head + _MODELS[self.model] + body + loop


WORKLOADS = (
    Workload("tiny", "tiny", 2000, 1.15),
    Workload("tiny, compiled", "tiny", 2000, 1.15, compiled=True),
    Workload("tiny", "by hand", 2000, 1.15, what="step by hand"),
    Workload("tiny", "turns", 2000, 1.15, what="turn"),
    Workload("mlp", "mlp", 80, 1.15),
    Workload("mlp, compiled", "mlp", 80, 1.15, compiled=True),
    Workload("mlp, large", "mlp, large", 12, 1.05),
    Workload("llama", "llama", 40, 1.05),
    Workload("llama, compiled", "llama", 40, 1.1, compiled=True),
    Workload("recurrent", "recurrent", 40, 1.05),
    Workload("recurrent, compiled", "recurrent", 40, 1.1, compiled=True),
    Workload("resnet", "resnet", 24, 1.05),
    Workload("llama, tokens", "llama", 100, 1.05, what="token"),
)
"""Steps of these are timed."""

ON_A_GPU = (
    Workload("llama, d256", "llama, d256", 40, 1.1),
    Workload("llama, d256, compiled", "llama, d256", 40, 1.1, compiled=True),
    Workload("llama, d768, bfloat16", "llama, d768", 24, 1.1),
    Workload("llama, d768, bfloat16, compiled", "llama, d768", 24, 1.1, compiled=True),
    Workload("llama, d256, tokens", "llama, d256", 100, 1.1, what="token"),
)
"""Steps of these are timed where there is a GPU: a CPU would take minutes for one."""

LONG = Workload("mlp", "mlp", 2000, 1.15, marks=(20, 200, 2000))
"""The memory of this is looked at."""

LARGE = Workload("mlp, large", "mlp, large", 200, 1.05)
"""Steps of this are opened behind restart points."""
