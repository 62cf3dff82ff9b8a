"""Odd programs: modules in odd ways: shared, frozen, wrapped, recurrent, quantized, updated on the way."""

from __future__ import annotations

import functools

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from tests.corpus.checks import Call
from tests.corpus.programs import built, differentiated


def _model(make):
    mx.random.seed(0)
    model = make()
    mx.eval(model.parameters())
    return model


def _data(*shape):
    return mx.sin(mx.arange(float(mx.zeros(shape).size)).reshape(shape))


@differentiated((4, 3))
def module_made_in_the_loss(x):
    mx.random.seed(5)
    return nn.relu(nn.Linear(3, 4)(x)).sum()


@differentiated((4, 3))
def dropout(x):
    layer = nn.Dropout(0.5)
    return (layer(x) * x).sum() + (x * mx.random.bernoulli(0.5, x.shape)).sum() + (mx.random.normal(x.shape) * x).sum()


@built
def weights_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(8, 4)
            self.hidden = nn.Linear(4, 4)
            self.same = self.hidden

        def __call__(self, tokens):
            h = nn.tanh(self.hidden(self.embedding(tokens)))
            return self.embedding.as_linear(self.same(h))

    model = _model(Tied)
    tokens = mx.array([[1, 2, 3, 1]])
    return Call(lambda t: nn.losses.cross_entropy(model(t), t, reduction="mean"), [tokens], model)


@built
def weight_tied_by_hand():
    model = _model(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))

    def loss(x):
        model.layers[2].weight = model.layers[0].weight
        return (model(x) ** 2).mean()

    return Call(lambda x: nn.value_and_grad(model, loss)(x), [_data(3, 4)], after=model.parameters)


@built
def transforms_made_before():
    model = _model(lambda: nn.Linear(4, 2))
    step = nn.value_and_grad(model, lambda x: (model(x) ** 2).mean())
    rows = mx.vmap(lambda row: model(row) * 2)

    def run(x):
        loss, grads = step(x)
        model.update(tree_map(lambda p, g: p - 0.1 * g, model.parameters(), grads))
        return loss, rows(x).sum() + model(x).mean(), step(x)

    return Call(run, [_data(3, 4)], after=model.parameters)


@built
def mlx_functions_kept_before():
    """Functions of MLX that objects, defaults and tables hold since before the recording began."""

    class Holder:
        inner = staticmethod(mx.exp)

        def __init__(self):
            self.outer = mx.tanh

        def __call__(self, x, last=mx.sin):
            return self.inner(x) * self.outer(x) * last(x)

    holder, table, bound = Holder(), {"cos": mx.cos}, functools.partial(mx.multiply, 2.0)
    return Call(lambda x: (holder(x) * table["cos"](x) * bound(x)).sum(), [_data(3, 4)], 0)


@built
def layers_frozen():
    model = _model(lambda: nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2)))
    model.layers[0].freeze()
    model.layers[1].freeze(keys="bias")
    return Call(lambda x: (model(x) ** 2).mean(), [_data(3, 4)], model)


@built
def layers_frozen_and_thawed_in_the_loss():
    model = _model(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))

    def loss(x):
        model.layers[0].freeze()
        value = (model(x) ** 2).mean()
        model.unfreeze()
        return value

    return Call(loss, [_data(3, 4)], model, after=model.trainable_parameters)


@built
def nothing_is_trainable():
    model = _model(lambda: nn.Linear(4, 2))
    model.freeze()
    return Call(lambda x: (model(x) ** 2).mean(), [_data(3, 4)], model)


class LowRank(nn.Module):
    """A frozen linear layer with a trainable correction of low rank."""

    def __init__(self, linear, rank):
        super().__init__()
        self.linear = linear
        self.a = mx.random.normal((linear.weight.shape[1], rank)) * 0.1
        self.b = mx.random.normal((rank, linear.weight.shape[0])) * 0.1
        self.linear.freeze()

    def __call__(self, x):
        return self.linear(x) + 2.0 * ((x @ self.a) @ self.b).astype(x.dtype)


@built
def low_rank_adapters():
    model = _model(lambda: nn.Sequential(LowRank(nn.Linear(4, 8), 2), nn.GELU(), LowRank(nn.Linear(8, 2), 2)))
    return Call(lambda x: (model(x) ** 2).mean(), [_data(3, 4)], model)


@built
def low_rank_adapters_on_quantized_layers():
    def make():
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32, bias=False))
        nn.quantize(model, group_size=32, bits=4)
        model.freeze()
        adapter = LowRank.__new__(LowRank)
        nn.Module.__init__(adapter)
        adapter.linear, adapter.a, adapter.b = model.layers[0], mx.ones((64, 2)) * 0.01, mx.ones((2, 64)) * 0.02
        model.layers[0] = adapter
        return model

    model = _model(make)
    return Call(lambda x: (model(x) ** 2).mean(), [_data(3, 64)], model)


@built
def quantized_layers():
    def make():
        model = nn.Sequential(nn.Embedding(10, 32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
        nn.quantize(model, group_size=32, bits=8)
        return model

    model = _model(make)
    return Call(lambda t: nn.losses.cross_entropy(model(t), t).mean(), [mx.array([1, 2, 5])], model)


@built
def recurrent_loop_by_hand():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(6, 4)
            self.candidate = nn.Linear(6, 4)
            self.start = mx.zeros((4,))

        def __call__(self, steps):
            h = mx.broadcast_to(self.start, (steps.shape[0], 4))
            for at in range(steps.shape[1]):
                both = mx.concatenate([steps[:, at], h], axis=-1)
                z = mx.sigmoid(self.gate(both))
                h = (1 - z) * h + z * mx.tanh(self.candidate(both))
            return h

    model = _model(Cell)
    return Call(lambda x: (model(x) ** 2).sum(), [_data(2, 7, 2)], model)


@built
def backpropagation_through_truncated_time():
    model = _model(lambda: nn.LSTM(3, 4))

    def loss(x):
        hidden = cell = None
        total = mx.array(0.0)
        for at in range(0, 6, 2):
            hiddens, cells = model(x[:, at : at + 2], hidden=hidden, cell=cell)
            hidden, cell = mx.stop_gradient(hiddens[:, -1]), mx.stop_gradient(cells[:, -1])
            total = total + (hiddens**2).mean()
        return total

    return Call(loss, [_data(2, 6, 3)], model)


def _normalizing():
    model = _model(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm(4), nn.ReLU(), nn.BatchNorm(4, affine=False)))

    def loss(x):
        first = model(x).sum()
        model.eval()
        second = model(x * 2).sum()
        model.train()
        return first + second * 0.5

    return model, loss


@built
def batch_norm_statistics():
    model, loss = _normalizing()
    return Call(loss, [_data(5, 3)], model, after=model.parameters)


@built
def batch_norm_statistics_in_a_training_loop():
    model, loss = _normalizing()
    return Call(
        lambda x: [nn.value_and_grad(model, loss)(x + k) for k in range(3)], [_data(5, 3)], after=model.parameters
    )


@built
def exponential_moving_average_of_weights():
    model = _model(lambda: nn.Linear(3, 2))
    average = tree_map(lambda p: p * 1, model.parameters())

    def run(x):
        nonlocal average
        optimizer = optim.SGD(0.1)
        for _ in range(3):
            _, grads = nn.value_and_grad(model, lambda m, t: (m(t) ** 2).mean())(model, x)
            optimizer.update(model, grads)
            average = tree_map(lambda a, p: 0.9 * a + 0.1 * p, average, model.parameters())
        return (model(x) ** 2).mean()

    return Call(run, [_data(4, 3)], after=lambda: (average, model.parameters()))


@built
def target_network():
    online, target = _model(lambda: nn.Linear(3, 2)), _model(lambda: nn.Linear(3, 2))
    target.update(tree_map(lambda p: p * 0.5, target.parameters()))

    def loss(state, action, reward, following):
        q = mx.take_along_axis(online(state), action[:, None], axis=1).squeeze(1)
        wanted = reward + 0.9 * mx.stop_gradient(target(following).max(axis=1))
        return ((q - wanted) ** 2).mean()

    return Call(loss, [_data(4, 3), mx.array([0, 1, 1, 0]), _data(4), _data(4, 3) * 2], online)


@built
def two_models_one_loss():
    """A generative adversarial network: each model is trained on the other's output."""
    generator, critic = _model(lambda: nn.Linear(2, 3)), _model(lambda: nn.Linear(3, 1))

    def run(noise, real):
        def critic_loss(m):
            return (mx.maximum(0, 1 - m(real)) + mx.maximum(0, 1 + m(mx.stop_gradient(generator(noise))))).mean()

        losses = []
        for _ in range(2):
            value, grads = nn.value_and_grad(critic, critic_loss)(critic)
            optim.Adam(0.01).update(critic, grads)
            losses.append(value)
            value, grads = nn.value_and_grad(generator, lambda g: -critic(g(noise)).mean())(generator)
            optim.Adam(0.01).update(generator, grads)
            losses.append(value)
        return losses

    return Call(run, [_data(4, 2), _data(4, 3)], after=lambda: (generator.parameters(), critic.parameters()))


@built
def several_passes_through_one_model():
    model = _model(lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 4)))

    def loss(x):
        first, second = model(x), model(x)
        consistency = ((first - mx.stop_gradient(second)) ** 2).mean()
        return (model(first) * second).mean() + consistency

    return Call(loss, [_data(3, 4)], model)


@built
def gradients_of_two_losses_in_one_call():
    model = _model(lambda: nn.Linear(4, 4))

    def run(x):
        one = nn.value_and_grad(model, lambda t: (model(t) ** 2).mean())(x)
        two = nn.value_and_grad(model, lambda t, scale=1.0: (mx.abs(model(t)).sum() * scale, model(t)))(x, scale=0.5)
        return one, two, tree_map(lambda a, b: a + b, one[1], two[1])

    return Call(run, [_data(3, 4)])
