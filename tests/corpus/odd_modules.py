"""Odd programs: modules with odd attributes, caches and tables; saved, hooked, and differentiated in odd ways."""

from __future__ import annotations

import functools

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

from tests.corpus.checks import Call
from tests.corpus.odd_models import _data, _model
from tests.corpus.programs import built, called


@built
def model_with_odd_attributes():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = mx.array(2.0)
            self.parts = [nn.Linear(3, 3), [mx.ones((3,)), {"deep": nn.Linear(3, 3, bias=False)}]]
            self.table = {"a": mx.ones((3,)), "b": nn.RMSNorm(3)}
            self._hidden = mx.ones((3,)) * 3
            self.name = "odd"
            self.nothing = None
            self.unused = nn.Linear(2, 2)

        def __call__(self, x):
            x = self.parts[0](x) * self.scale + self.parts[1][0]
            x = self.table["b"](self.parts[1][1]["deep"](x)) * self.table["a"]
            self.last = x
            return x * self._hidden

    model = _model(Odd)
    return Call(lambda x: (model(x) ** 2).mean() + model.last.sum() * 0.1, [_data(2, 3)], model, after=model.parameters)


@built
def model_as_an_argument():
    model = _model(lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)))

    def run(x):
        by_argument = nn.value_and_grad(model, lambda m, t: (m(t) ** 2).mean())(model, x)
        by_params = mx.value_and_grad(lambda p, t: (model.update(p)(t) ** 2).mean())(model.parameters(), x)
        return by_argument, by_params

    return Call(run, [_data(5, 3)], after=model.parameters)


@built
def model_differentiated_as_a_tree():
    model = _model(lambda: nn.Linear(3, 2))
    return Call(lambda m, x: (m(x) ** 2).mean(), [model, _data(5, 3)], 0, after=model.parameters)


@built
def module_with_a_differentiated_method():
    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 1)

        def energy(self, x):
            return mx.tanh(self.net(x)).sum()

        def forces(self, x):
            return -mx.grad(self.energy)(x)

        def __call__(self, x):
            return mx.vmap(self.forces)(x) + self.forces(x)

    model = _model(Energy)
    return Call(lambda x: (model(x) ** 2).mean(), [_data(4, 3)], model)


@built
def input_and_model_differentiated_together():
    model = _model(lambda: nn.Linear(3, 2))

    def loss(params, x):
        model.update(params)
        return (model(x) ** 2).mean() + x.sum()

    return Call(loss, [model.trainable_parameters(), _data(4, 3)], [0, 1])


@built
def parameter_changed_in_the_forward_pass():
    class Normalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = mx.ones((3, 3)) * 0.5 + mx.eye(3)
            self.u = mx.ones((3,))
            self.freeze(keys=["u"])

        def __call__(self, x):
            v = self.weight.T @ self.u
            self.u = mx.stop_gradient(v / mx.linalg.norm(v))
            sigma = self.u @ (self.weight @ self.u)
            return x @ (self.weight / sigma).T

    model = _model(Normalized)

    def run(x):
        step = nn.value_and_grad(model, lambda t: model(model(t)).sum())
        return step(x), step(x + 1)

    return Call(run, [_data(2, 3)], after=model.parameters)


@built
def weights_assigned_in_place_in_the_forward_pass():
    model = _model(lambda: nn.Linear(3, 3))

    def loss(x):
        model.weight[0] = 0.0
        model.bias += 1.0
        return (model(x) ** 2).mean()

    return Call(lambda x: [nn.value_and_grad(model, loss)(x) for _ in range(2)], [_data(2, 3)], after=model.parameters)


@built
def mixed_precision_training():
    model = _model(lambda: nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)))

    def run(x):
        master = model.parameters()
        optimizer = optim.Adam(0.01)
        losses = []
        for _ in range(3):
            half = tree_map(lambda p: p.astype(mx.float16), master)

            def loss(params):
                model.update(params)
                return (model(x.astype(mx.float16)).astype(mx.float32) ** 2).mean() * 128

            value, grads = mx.value_and_grad(loss)(half)
            grads = tree_map(lambda g: g.astype(mx.float32) / 128, grads)
            master = optimizer.apply_gradients(grads, master)
            losses.append(value / 128)
        return losses, master

    return Call(run, [_data(3, 4)])


@built
def key_value_cache_of_a_module():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(8, 24, bias=False)
            self.out = nn.Linear(8, 8)

        def __call__(self, x, cache=None):
            batch, length, _ = x.shape
            q, k, v = (t.reshape(batch, length, 2, 4).transpose(0, 2, 1, 3) for t in mx.split(self.qkv(x), 3, axis=-1))
            if cache is not None:
                if cache:
                    k, v = mx.concatenate([cache[0], k], axis=2), mx.concatenate([cache[1], v], axis=2)
                cache[:] = [k, v]
            h = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.5)
            return self.out(h.transpose(0, 2, 1, 3).reshape(batch, length, 8))

    model = _model(Attention)
    cache = []

    def loss(x):
        cache.clear()
        total = mx.array(0.0)
        for at in range(x.shape[1]):
            total = total + model(x[:, at : at + 1], cache).sum()
        return total

    return Call(loss, [_data(1, 4, 8)], model, after=lambda: cache)


@built
def mixture_of_experts():
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(4, 3)
            self.experts = [nn.Linear(4, 4) for _ in range(3)]

        def __call__(self, x):
            weights = mx.softmax(self.gate(x), axis=-1)
            chosen = mx.stop_gradient(mx.argpartition(-weights, 1, axis=-1)[:, :2])
            weights = mx.take_along_axis(weights, chosen, axis=-1)
            rows = []
            for row, picks, scale in zip(x, chosen.tolist(), weights):
                rows.append(sum(self.experts[pick](row) * scale[at] for at, pick in enumerate(picks)))
            return mx.stack(rows)

    model = _model(Mixture)
    return Call(lambda x: (model(x) ** 2).mean(), [_data(5, 4)], model)


@built
def positional_tables_and_buffers():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions = nn.SinusoidalPositionalEncoding(8)
            self.rope = nn.RoPE(8)
            self.alibi = nn.ALiBi()
            self.proj = nn.Linear(8, 8)

        def __call__(self, x):
            x = x + self.positions(mx.arange(x.shape[1]))
            q = self.rope(self.proj(x)[:, None])
            scores = self.alibi(q @ q.swapaxes(-1, -2))
            return mx.softmax(scores, axis=-1) @ x[:, None]

    model = _model(Encoder)
    return Call(lambda x: (model(x) ** 2).mean(), [_data(2, 5, 8)], model)


@built
def hooks_around_layers():
    seen = []

    class Watched(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def __call__(self, *args, **kwargs):
            out = self.inner(*args, **kwargs)
            seen.append((type(self.inner).__name__, float(mx.abs(out).max())))
            return out

    model = _model(lambda: nn.Sequential(*(Watched(layer) for layer in (nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))))
    return Call(lambda x: model(x).sum(), [_data(2, 3)], model, after=lambda: seen)


@built
def model_saved_and_loaded_on_the_way():
    import tempfile

    model = _model(lambda: nn.Linear(3, 2))

    def run(x):
        with tempfile.TemporaryDirectory() as folder:
            model.save_weights(f"{folder}/weights.safetensors")
            model.weight = model.weight * 0
            before = model(x)
            model.load_weights(f"{folder}/weights.safetensors")
            mx.save(f"{folder}/x.npy", x)
            mx.savez(f"{folder}/more.npz", a=x, b=model.bias)
            again, more = mx.load(f"{folder}/x.npy"), mx.load(f"{folder}/more.npz")
            value, grads = nn.value_and_grad(model, lambda t: (model(t) ** 2).mean())(again)
            mx.eval(value, grads, more)
        return before, value, grads, more["a"] * more["b"][0]

    return Call(run, [_data(4, 3)])


@built
def gradients_of_some_parameters():
    model = _model(lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)))

    def run(x):
        chosen = {"layers": [{}, model.layers[1].parameters(), {"bias": model.layers[2].bias}]}

        def loss(params):
            model.update(params)
            return (model(x) ** 2).mean()

        return mx.value_and_grad(loss)(chosen), dict(tree_flatten(model.parameters()))

    return Call(run, [_data(4, 3)])


@called((4, 3))
def transformer_decoder_with_everything(x):
    model = nn.Transformer(
        dims=8, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, mlp_dims=16, dropout=0.1, checkpoint=True
    )
    proj = nn.Linear(3, 8)
    data = proj(x)[None]
    mask = nn.MultiHeadAttention.create_additive_causal_mask(4)
    return nn.value_and_grad(model, lambda m: m(data, data[:, :2], mask, mask[:2, :2], None).sum())(model)


@called((6, 3))
def functional_style_layers(x):
    @functools.partial(mx.value_and_grad, argnums=0)
    def loss(params, data):
        for w, b in params:
            data = mx.tanh(mx.addmm(b, data, w))
        return (data**2).mean()

    params = [(mx.random.normal((3, 3)), mx.zeros((3,))) for _ in range(3)]
    value, grads = loss(params, x)
    params = [(w - 0.1 * gw, b - 0.1 * gb) for (w, b), (gw, gb) in zip(params, grads)]
    return value, grads, loss(params, x)
