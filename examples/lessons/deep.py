"""Three deep networks: small weights, large weights, and small weights with a normalization in front of each layer."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim


def normalized(h):
    centred = h - mx.mean(h, axis=-1, keepdims=True)
    return centred / mx.sqrt(mx.mean(mx.square(centred), axis=-1, keepdims=True) + 1e-5)


class Deep(nn.Module):
    """Twelve layers of the same width, with ReLU."""

    def __init__(self, size, normalize):
        super().__init__()
        self.weights = [mx.random.uniform(-size, size, (16, 16)) for _ in range(12)]
        self.normalize = normalize

    def __call__(self, h):
        for weight in self.weights:
            if self.normalize:
                h = normalized(h)
            h = mx.maximum(h @ weight, 0)
        return h


def loss_fn(model, x, y):
    out = model(x)
    return mx.mean(mx.square(out - y))


mx.random.seed(1)
x = mx.random.normal((8, 16))
y = mx.random.normal((8, 16))

models = [Deep(0.25, normalize=False), Deep(1.0, normalize=False), Deep(0.25, normalize=True)]

for model in models:
    loss, grads = nn.value_and_grad(model, loss_fn)(model, x, y)
    optim.SGD(learning_rate=0.01).update(model, grads)
