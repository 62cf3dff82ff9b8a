"""Programs as an outsider writes them, in which something goes wrong at a known op."""

from tests.support import ROOT

BORN_FORWARD = """\
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

mx.random.seed(3)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = optim.SGD(learning_rate=0.1)


def entropy_loss(x, y):
    p = mx.softmax(model(x) * 200)
    picked = mx.take_along_axis(p, y[:, None], axis=1)
    return -(picked * mx.log(picked)).mean()


step = nn.value_and_grad(model, entropy_loss)
for number in range(4):
    x, y = mx.random.normal((6, 4)), mx.random.randint(0, 3, (6,))
    loss, grads = step(x, y)
    optimizer.update(model, grads)
    mx.eval(model.parameters())
"""

BORN_BACKWARD = """\
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = mx.array([[0.5, -1.0, 2.0], [0.0, 0.0, 0.0]])

    def __call__(self, x):
        norms = mx.sqrt(mx.sum(mx.square(self.w), axis=1))
        return (x @ self.w.T) * norms


model = Net()
optimizer = optim.Adam(learning_rate=0.01)
step = nn.value_and_grad(model, lambda x: mx.mean(model(x) ** 2))
for number in range(3):
    loss, grads = step(mx.ones((2, 3)))
    optimizer.update(model, grads)
    mx.eval(model.parameters(), optimizer.state)
"""

BORN_IN_UPDATE = (ROOT / "tests/programs/born_in_update.py").read_text(encoding="utf-8")

BROUGHT_ALONG = """\
import mlx.core as mx

rows = mx.array([[1.0, 2.0], [3.0, float("nan")]])
weights = mx.ones((2, 2))


def loss_fn(weights, rows):
    return mx.mean(rows @ weights)


loss, grad = mx.value_and_grad(loss_fn)(weights, rows)
print("loss", loss.item())
"""

OVERFLOW = """\
import mlx.core as mx

weights = mx.array([1.0, 50.0, 100.0])


def loss_fn(w):
    return mx.sum(mx.exp(w))


for number in range(2):
    loss, grad = mx.value_and_grad(loss_fn)(weights)
    weights = weights - 0.01 * grad
    print("loss", loss.item())
"""

STRETCHED = """\
import mlx.core as mx

prediction = mx.ones((4, 1))
target = mx.zeros((4,))
weights = mx.ones((1,))
loss, grad = mx.value_and_grad(lambda w: mx.mean((prediction * w - target) ** 2))(weights)
try:
    prediction @ mx.ones((2, 2))
except ValueError:
    print("caught")
print(loss.item())
"""

LOOP = """\
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(3, 3) for _ in range(3)]

    def __call__(self, x):
        for layer in self.layers:
            x = mx.tanh(layer(x))
        return x


mx.random.seed(0)
model = Net()
optimizer = optim.SGD(learning_rate=0.5)


def loss_fn(x, y):
    out = model(x)
    return mx.mean((out - y) ** 2)


step = nn.value_and_grad(model, loss_fn)
for number in range(5):
    x = mx.random.normal((4, 3))
    loss, grads = step(x, mx.zeros((4, 3)))
    optimizer.update(model, grads)
    mx.eval(model.parameters())
    print("step", number)
"""
