"""Every layer, activation, loss, initializer and optimizer of MLX, in a small program of its own.

The tables are complete: `missing()` names what MLX has and they have not. One thing may have several programs
(`Conv2d`, `Conv2d groups`): the first word says what it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.nn.layers import activations
from mlx.utils import tree_map

from tests.corpus.checks import Call


def _numbers(*shape: int) -> mx.array:
    """Numbers of both signs without a pattern, the same ones every time."""
    count = 1
    for length in shape:
        count *= length
    return mx.sin(mx.arange(1, count + 1) ** 2 * 0.37).reshape(shape) * 2


TOKENS = [[1, 5, 2], [0, 7, 1]]

Layer = tuple[Callable[[], Any], *tuple[Any, ...]]
"""How a layer is made, and what it is called with: shapes of arrays, and lists, which become arrays as they are.
Arrays themselves are made when a program is built, so that a recording sees where they come from."""

LAYERS: dict[str, Layer] = {
    "ALiBi": (nn.ALiBi, (1, 2, 4, 4)),
    "ALiBi offset": (lambda: lambda x: nn.ALiBi()(x, offset=3), (1, 2, 1, 4)),
    "AllToShardedLinear": (lambda: nn.AllToShardedLinear(4, 6), (2, 4)),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), (2, 6, 3)),
    "AvgPool1d overlapping": (lambda: nn.AvgPool1d(3, stride=2, padding=1), (2, 7, 3)),
    "AvgPool2d": (lambda: nn.AvgPool2d((2, 3)), (2, 6, 6, 3)),
    "AvgPool2d overlapping": (lambda: nn.AvgPool2d(3, stride=1, padding=(1, 0)), (1, 5, 5, 2)),
    "AvgPool3d": (lambda: nn.AvgPool3d(2), (1, 4, 4, 4, 2)),
    "BatchNorm": (lambda: nn.BatchNorm(3), (4, 5, 3)),
    "BatchNorm eval": (lambda: nn.BatchNorm(3).eval(), (4, 3)),
    "BatchNorm plain": (lambda: nn.BatchNorm(3, affine=False, track_running_stats=False, momentum=0.5), (4, 2, 2, 3)),
    "Bilinear": (lambda: nn.Bilinear(3, 4, 5), (2, 3), (2, 4)),
    "Bilinear no bias": (lambda: nn.Bilinear(3, 4, 5, bias=False), (2, 6, 3), (2, 6, 4)),
    "CELU": (lambda: nn.CELU(0.7), (3, 4)),
    "Conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=1), (2, 6, 3)),
    "Conv1d groups": (lambda: nn.Conv1d(4, 4, 3, stride=2, dilation=2, groups=4, bias=False), (2, 9, 4)),
    "Conv2d": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 6, 6, 3)),
    "Conv2d groups": (lambda: nn.Conv2d(4, 6, (3, 2), dilation=(1, 2), groups=2), (1, 7, 6, 4)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2, bias=False), (1, 3, 4, 3, 2)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, output_padding=1), (2, 5, 3)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 2, 3, stride=2), (1, 4, 4, 3)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 2, 2, stride=2, bias=False), (1, 2, 3, 2, 2)),
    "Dropout": (lambda: nn.Dropout(0.4), (4, 5)),
    "Dropout eval": (lambda: nn.Dropout(0.4).eval(), (4, 5)),
    "Dropout none": (lambda: nn.Dropout(0.0), (4, 5)),
    "Dropout2d": (lambda: nn.Dropout2d(0.4), (2, 3, 3, 6)),
    "Dropout3d": (lambda: nn.Dropout3d(0.4), (2, 2, 2, 2, 6)),
    "ELU": (lambda: nn.ELU(0.5), (3, 4)),
    "Embedding": (lambda: nn.Embedding(8, 4), TOKENS),
    "Embedding as_linear": (lambda: nn.Embedding(8, 4).as_linear, (3, 4)),
    "FullyShardedModule": (lambda: nn.fully_shard(nn.Linear(4, 3)), (2, 4)),
    "GELU": (nn.GELU, (3, 4)),
    "GELU fast": (lambda: nn.GELU("fast"), (3, 4)),
    "GELU precise": (lambda: nn.GELU("precise"), (3, 4)),
    "GLU": (nn.GLU, (3, 4)),
    "GLU axis": (lambda: nn.GLU(axis=0), (4, 3)),
    "GRU": (lambda: nn.GRU(3, 4), (2, 5, 3)),
    "GRU hidden": (lambda: nn.GRU(3, 4, bias=False), (5, 3), (4,)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), (2, 3, 3, 6)),
    "GroupNorm pytorch": (lambda: nn.GroupNorm(3, 6, pytorch_compatible=True), (2, 5, 6)),
    "GroupNorm plain": (lambda: nn.GroupNorm(3, 6, affine=False), (2, 5, 6)),
    "HardShrink": (nn.HardShrink, (3, 4)),
    "HardTanh": (nn.HardTanh, (3, 4)),
    "Hardswish": (nn.Hardswish, (3, 4)),
    "Identity": (nn.Identity, (3, 4)),
    "InstanceNorm": (lambda: nn.InstanceNorm(3, affine=True), (2, 4, 4, 3)),
    "InstanceNorm plain": (lambda: nn.InstanceNorm(3), (2, 4, 3)),
    "LSTM": (lambda: nn.LSTM(3, 4), (2, 5, 3)),
    "LSTM hidden": (lambda: nn.LSTM(3, 4, bias=False), (5, 3), (4,), (4,)),
    "LayerNorm": (lambda: nn.LayerNorm(6), (2, 3, 6)),
    "LayerNorm no bias": (lambda: nn.LayerNorm(6, bias=False), (2, 3, 6)),
    "LayerNorm plain": (lambda: nn.LayerNorm(6, affine=False, eps=1e-3), (2, 3, 6)),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.2), (3, 4)),
    "Linear": (lambda: nn.Linear(4, 3), (2, 4)),
    "Linear no bias": (lambda: nn.Linear(4, 3, bias=False), (2, 5, 4)),
    "Linear vector": (lambda: nn.Linear(4, 3), (4,)),
    "LogSigmoid": (nn.LogSigmoid, (3, 4)),
    "LogSoftmax": (nn.LogSoftmax, (3, 4)),
    "MaxPool1d": (lambda: nn.MaxPool1d(2), (2, 6, 3)),
    "MaxPool1d overlapping": (lambda: nn.MaxPool1d(3, stride=2, padding=1), (2, 7, 3)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), (2, 6, 6, 3)),
    "MaxPool2d overlapping": (lambda: nn.MaxPool2d((3, 2), stride=(1, 2), padding=1), (1, 5, 6, 2)),
    "MaxPool3d": (lambda: nn.MaxPool3d(2), (1, 4, 4, 4, 2)),
    "Mish": (nn.Mish, (3, 4)),
    "MultiHeadAttention": (lambda: nn.MultiHeadAttention(8, 2), (2, 4, 8), (2, 5, 8), (2, 5, 8)),
    "MultiHeadAttention dims": (
        lambda: nn.MultiHeadAttention(
            8, 2, query_input_dims=6, key_input_dims=5, value_input_dims=4, value_output_dims=3, bias=True
        ),
        (2, 4, 6),
        (2, 5, 5),
        (2, 5, 4),
    ),
    "MultiHeadAttention mask": (
        lambda: nn.MultiHeadAttention(8, 2),
        (2, 4, 8),
        (2, 4, 8),
        (2, 4, 8),
        lambda: nn.MultiHeadAttention.create_additive_causal_mask(4),
    ),
    "PReLU": (lambda: nn.PReLU(4, 0.3), (3, 4)),
    "QuantizedAllToShardedLinear": (lambda: nn.QuantizedAllToShardedLinear(64, 32), (2, 64)),
    "QuantizedEmbedding": (lambda: nn.QuantizedEmbedding(8, 64), TOKENS),
    "QuantizedEmbedding as_linear": (lambda: nn.QuantizedEmbedding(8, 64).as_linear, (3, 64)),
    "QuantizedLinear": (lambda: nn.QuantizedLinear(64, 32), (2, 64)),
    "QuantizedLinear 8 bits": (lambda: nn.QuantizedLinear(64, 32, bias=False, group_size=32, bits=8), (2, 3, 64)),
    "QuantizedLinear mxfp4": (lambda: nn.QuantizedLinear(64, 32, mode="mxfp4"), (2, 64)),
    "QuantizedShardedToAllLinear": (lambda: nn.QuantizedShardedToAllLinear(64, 32), (2, 64)),
    "RMSNorm": (lambda: nn.RMSNorm(6), (2, 3, 6)),
    "RNN": (lambda: nn.RNN(3, 4), (2, 5, 3)),
    "RNN hidden": (lambda: nn.RNN(3, 4, bias=False, nonlinearity=nn.relu), (5, 3), (4,)),
    "ReLU": (nn.ReLU, (3, 4)),
    "ReLU2": (nn.ReLU2, (3, 4)),
    "ReLU6": (nn.ReLU6, (3, 4)),
    "RoPE": (lambda: nn.RoPE(8), (1, 2, 4, 8)),
    "RoPE traditional": (lambda: nn.RoPE(4, traditional=True, base=100.0, scale=0.5), (2, 4, 8)),
    "SELU": (nn.SELU, (3, 4)),
    "Sequential": (lambda: nn.Sequential(nn.Linear(4, 3), mx.tanh, lambda x: x * 2, nn.Linear(3, 2)), (2, 4)),
    "ShardedToAllLinear": (lambda: nn.ShardedToAllLinear(4, 6), (2, 4)),
    "SiLU": (nn.SiLU, (3, 4)),
    "Sigmoid": (nn.Sigmoid, (3, 4)),
    "SinusoidalPositionalEncoding": (lambda: nn.SinusoidalPositionalEncoding(8), (2, 5)),
    "SinusoidalPositionalEncoding turns": (
        lambda: nn.SinusoidalPositionalEncoding(6, scale=0.5, cos_first=True, full_turns=True),
        (5,),
    ),
    "Softmax": (nn.Softmax, (3, 4)),
    "Softmin": (nn.Softmin, (3, 4)),
    "Softplus": (nn.Softplus, (3, 4)),
    "Softshrink": (lambda: nn.Softshrink(0.2), (3, 4)),
    "Softsign": (nn.Softsign, (3, 4)),
    "Step": (lambda: nn.Step(0.1), (3, 4)),
    "Tanh": (nn.Tanh, (3, 4)),
    "Transformer": (lambda: _transformer(dropout=0.1), (1, 4, 8), (1, 3, 8), None, None, None),
    "Transformer norm last": (lambda: _transformer(norm_first=False), (1, 4, 8), (1, 3, 8), None, None, None),
    "Transformer checkpoint": (
        lambda: _transformer(checkpoint=True, activation=nn.gelu),
        (1, 4, 8),
        (1, 3, 8),
        None,
        lambda: nn.MultiHeadAttention.create_additive_causal_mask(3),
        None,
    ),
    "TransformerDecoder": (lambda: nn.TransformerDecoder(2, 8, 2, 16), (1, 4, 8), (1, 3, 8), None, None),
    "TransformerDecoderLayer": (
        lambda: nn.TransformerDecoderLayer(8, 2, 16, dropout=0.2),
        (1, 4, 8),
        (1, 3, 8),
        None,
        None,
    ),
    "TransformerEncoder": (lambda: nn.TransformerEncoder(2, 8, 2, 16), (1, 4, 8), None),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, norm_first=False), (1, 4, 8), None),
    "Upsample nearest": (lambda: nn.Upsample(2), (1, 3, 3, 2)),
    "Upsample fraction": (lambda: nn.Upsample(1.5, "nearest"), (1, 4, 2)),
    "Upsample linear": (lambda: nn.Upsample((2, 1.5), "linear"), (1, 3, 4, 2)),
    "Upsample linear corners": (lambda: nn.Upsample(2, "linear", align_corners=True), (1, 3, 4, 2)),
    "Upsample antialias": (lambda: nn.Upsample(0.5, "linear", antialias=True), (1, 6, 6, 2)),
    "Upsample cubic": (lambda: nn.Upsample(2, "cubic"), (1, 4, 4, 1)),
    "Upsample cubic antialias": (lambda: nn.Upsample(0.5, "cubic", antialias=True), (1, 6, 6, 1)),
}


def _transformer(**options: Any) -> nn.Transformer:
    return nn.Transformer(
        **{
            "dims": 8,
            "num_heads": 2,
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
            "mlp_dims": 16,
            "dropout": 0.0,
            **options,
        }
    )


ACTIVATIONS: dict[str, tuple[Any, ...]] = {
    name: () for name in vars(activations) if name.islower() and not name.startswith("_") and name in vars(nn)
}
"""The functions of mlx.nn, with what they take besides an array."""
ACTIVATIONS |= {"prelu": ([0.1, 0.2, 0.3, 0.4],), "step": (0.3,), "celu": (0.5,), "hard_shrink": (0.3,)}

CLASSES = [1, 0, 3]
SIGNS = [[1.0, -1.0, 1.0, -1.0]] * 3
FRACTIONS = [[0.1, 0.9, 0.5, 0.0], [1.0, 0.3, 0.2, 0.7], [0.5, 0.5, 0.0, 1.0]]

LOSSES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "binary_cross_entropy": (((3, 4), FRACTIONS), {}),
    "binary_cross_entropy probabilities": ((FRACTIONS, FRACTIONS), {"with_logits": False}),
    "binary_cross_entropy weights": (((3, 4), FRACTIONS), {"weights": FRACTIONS[::-1], "reduction": "sum"}),
    "cosine_similarity_loss": (((3, 4), FRACTIONS), {"axis": 0}),
    "cross_entropy": (((3, 4), CLASSES), {}),
    "cross_entropy probabilities": (
        ((3, 4), [[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 0.0], [0.25] * 4]),
        {"label_smoothing": 0.1},
    ),
    "cross_entropy smoothing": (((3, 4), CLASSES), {"weights": [0.1, 2.0, 1.0], "label_smoothing": 0.2}),
    "cross_entropy axis": (((4, 3), CLASSES), {"axis": 0, "reduction": "mean"}),
    "gaussian_nll_loss": (((3, 4), FRACTIONS, SIGNS), {"full": True}),
    "hinge_loss": (((3, 4), SIGNS), {}),
    "huber_loss": (((3, 4), SIGNS), {"delta": 0.5, "reduction": "sum"}),
    "kl_div_loss": (((3, 4), FRACTIONS), {"reduction": "mean"}),
    "l1_loss": (((3, 4), FRACTIONS), {}),
    "log_cosh_loss": (((3, 4), FRACTIONS), {}),
    "margin_ranking_loss": (((3,), (3,), [1.0, -1.0, 1.0]), {"margin": 0.3}),
    "mse_loss": (((3, 4), FRACTIONS), {}),
    "nll_loss": (((3, 4), CLASSES), {}),
    "smooth_l1_loss": (((3, 4), FRACTIONS), {"beta": 0.7}),
    "triplet_loss": (((3, 4), FRACTIONS, SIGNS), {"margin": 2.0}),
    "triplet_loss p": (((3, 4), FRACTIONS, SIGNS), {"p": 1, "axis": 0, "margin": 5.0}),
}

INITIALIZERS: dict[str, tuple[Any, ...]] = {
    "constant": (0.3,),
    "glorot_normal": (),
    "glorot_uniform": (),
    "he_normal": (),
    "he_uniform": (),
    "identity": (),
    "normal": (0.1, 2.0),
    "orthogonal": (1.5,),
    "sparse": (0.4,),
    "uniform": (-0.5, 0.5),
}

SCHEDULES: dict[str, Callable[[], Callable[[mx.array], mx.array]]] = {
    "cosine_decay": lambda: optim.cosine_decay(0.1, 3, 0.01),
    "exponential_decay": lambda: optim.exponential_decay(0.1, 0.5),
    "join_schedules": lambda: optim.join_schedules(
        [optim.linear_schedule(0.0, 0.1, 2), optim.cosine_decay(0.1, 5)], [2]
    ),
    "linear_schedule": lambda: optim.linear_schedule(0.0, 0.1, 2),
    "step_decay": lambda: optim.step_decay(0.1, 0.5, 2),
}

OPTIMIZERS: dict[str, Callable[[], optim.Optimizer]] = {
    "AdaDelta": lambda: optim.AdaDelta(1.0),
    "Adafactor": lambda: optim.Adafactor(),
    "Adafactor everything": lambda: optim.Adafactor(0.01, beta_1=0.9, weight_decay=0.01, relative_step=False),
    "Adafactor warm-up": lambda: optim.Adafactor(warmup_init=True, scale_parameter=False),
    "Adagrad": lambda: optim.Adagrad(0.1),
    "Adam": lambda: optim.Adam(0.05),
    "Adam corrected": lambda: optim.Adam(0.05, betas=[0.8, 0.9], bias_correction=True),
    "AdamW": lambda: optim.AdamW(0.05, weight_decay=0.1),
    "Adamax": lambda: optim.Adamax(0.05),
    "Lion": lambda: optim.Lion(0.01, weight_decay=0.1),
    "MultiOptimizer": lambda: optim.MultiOptimizer(
        [optim.Muon(0.02), optim.Adam(0.05), optim.SGD(0.1)],
        [lambda name, weight: weight.ndim == 2, lambda name, weight: "norm" in name or name.startswith("last")],
    ),
    "Muon": lambda: optim.Muon(0.02),
    "Muon plain": lambda: optim.Muon(0.02, nesterov=False, weight_decay=0.0, ns_steps=2),
    "RMSprop": lambda: optim.RMSprop(0.01),
    "SGD": lambda: optim.SGD(0.1),
    "SGD momentum": lambda: optim.SGD(0.1, momentum=0.9, weight_decay=0.01, dampening=0.1),
    "SGD nesterov": lambda: optim.SGD(0.1, momentum=0.9, nesterov=True),
    **{name: lambda made=made: optim.AdamW(made()) for name, made in SCHEDULES.items()},
}

UNAVAILABLE: dict[str, str] = {"QQLinear": "MLX has no product of two quantized matrices on the CPU"}
ABSTRACT = frozenset({"Module", "Optimizer"})


def missing() -> list[str]:
    """What MLX has, and the tables have not."""
    classes = {name for name, thing in vars(nn).items() if inspect.isclass(thing)} - ABSTRACT - UNAVAILABLE.keys()
    functions = {name for name in vars(activations) if name in vars(nn) and name.islower()}
    optimizers = {name for name, thing in vars(optim).items() if _is_a(thing, optim.Optimizer)} - ABSTRACT
    schedules = {name for name, thing in vars(optim.schedulers).items() if _is_from(thing, optim.schedulers)}
    losses = {name for name, thing in vars(nn.losses).items() if _is_from(thing, nn.losses) or "loss" in name}
    initializers = {name for name, thing in vars(nn.init).items() if _is_from(thing, nn.init)}
    return [
        name
        for wanted, table in (
            (classes, LAYERS),
            (functions, ACTIVATIONS),
            (losses, LOSSES),
            (initializers, INITIALIZERS),
            (optimizers, OPTIMIZERS),
            (schedules, SCHEDULES),
        )
        for name in sorted(wanted - {key.split()[0] for key in table})
        if not name.startswith("_")
    ]


def _is_a(thing: Any, base: type) -> bool:
    return inspect.isclass(thing) and issubclass(thing, base)


def _is_from(thing: Any, module: Any) -> bool:
    return inspect.isfunction(thing) and thing.__module__ == module.__name__


# -- the programs --------------------------------------------------------------------------------------------------


def _arguments(given: Sequence[Any]) -> list[Any]:
    """The arguments: shapes become arrays of numbers, lists arrays as they are, functions what they return."""
    return [_argument(item) for item in given]


def _argument(item: Any) -> Any:
    if isinstance(item, tuple):
        return _numbers(*item)
    if isinstance(item, list):
        return mx.array(item)
    return item() if callable(item) else item


def layer_call(name: str) -> Call:
    """A layer, differentiated with respect to its parameters, or its input if it has none; called twice, so that
    what it keeps between calls counts."""
    make, *given = LAYERS[name]
    mx.random.seed(0)
    layer = make()
    model = layer if isinstance(layer, nn.Module) else getattr(layer, "__self__", None)
    arrays = _arguments(given)

    def loss(*inputs: Any) -> mx.array:
        return _weighted(layer(*inputs)) + 0.5 * _weighted(layer(*inputs))

    after = model.parameters if model is not None else tuple
    if model is not None and _has_arrays(model.trainable_parameters()):
        return Call(lambda *inputs: nn.value_and_grad(model, loss)(*inputs), arrays, after=after)
    wrt = [at for at, array in enumerate(arrays) if _is_float(array)]
    return Call(loss, arrays, wrt or None, after=after)


def has_parameters(name: str) -> bool:
    """Whether a layer has something to be trained, so that its input is differentiated in a program of its own."""
    layer = LAYERS[name][0]()
    return isinstance(layer, nn.Module) and _has_arrays(layer.trainable_parameters())


def input_call(name: str) -> Call:
    """A layer, differentiated with respect to its inputs."""
    make, *given = LAYERS[name]
    mx.random.seed(0)
    layer = make()
    arrays = _arguments(given)
    wrt = [at for at, array in enumerate(arrays) if _is_float(array)]
    return Call(lambda *inputs: _weighted(layer(*inputs)), arrays, wrt or None)


def activation_call(name: str) -> Call:
    """An activation function, on numbers of both signs."""
    more = _arguments(ACTIVATIONS[name])
    return Call(lambda x: _weighted(getattr(nn, name)(x, *more)), [_numbers(3, 4)], 0)


def loss_call(name: str) -> Call:
    """A loss, differentiated with respect to the predictions."""
    function = getattr(nn.losses, name.split()[0])
    given, options = arguments_of(name)
    return Call(lambda *inputs: function(*inputs, **options).sum(), given, 0)


def arguments_of(name: str) -> tuple[list[Any], dict[str, Any]]:
    """Return what a loss is called with: its tensors, and its options."""
    given, options = LOSSES[name]
    return _arguments(given), {key: _argument(item) for key, item in options.items()}


def initializer_call(name: str) -> Call:
    """An initializer, in a function that is just called."""

    def run() -> list[mx.array]:
        init = getattr(nn.init, name)(*INITIALIZERS[name])
        return [init(mx.zeros((4, 4))), init(mx.zeros((4, 4), mx.float16))]

    return Call(run)


class Small(nn.Module):
    """A model with matrices, vectors and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.LayerNorm(8)
        self.scale = mx.array(0.7)
        self.last = nn.Linear(8, 2)

    def __call__(self, x: mx.array) -> mx.array:
        return self.last(nn.relu(self.norm(self.first(x)) * self.scale))


def optimizer_call(name: str) -> Call:
    """A few steps of training, with gradients that are clipped."""
    mx.random.seed(0)
    model = Small()
    optimizer = OPTIMIZERS[name]()
    x, y = _numbers(6, 4), _numbers(6, 2)

    def train() -> list[Any]:
        step = nn.value_and_grad(model, lambda: ((model(x) - y) ** 2).mean())
        losses = []
        for number in range(4):
            loss, grads = step()
            norm = None
            if number % 2:
                grads, norm = optim.clip_grad_norm(grads, max_norm=0.5)
            optimizer.update(model, grads)
            mx.eval(model.parameters(), optimizer.state)
            losses.append((loss, norm if norm is not None else 0.0))
        return losses

    return Call(train, after=lambda: (model.parameters(), optimizer.state))


def functional_optimizer_call(name: str) -> Call:
    """The same, without a model and without evaluating anything on the way."""
    optimizer = OPTIMIZERS[name]()

    def train(w: mx.array) -> Any:
        params = {"w": w, "deep": {"b": w[0] * 2, "norm": w[:, 0] + 1, "er": {"w": w.T * 0.5}}}
        for _ in range(3):
            grads = tree_map(lambda p: p * 0.1 + 0.01, params)
            params = optimizer.apply_gradients(grads, params)
        return params

    return Call(train, [_numbers(4, 3)], after=lambda: optimizer.state)


def _weighted(result: Any) -> mx.array:
    """A loss of everything that a layer returned, with another weight for each element."""
    return sum(((array * _numbers(*array.shape)).sum() for array in _arrays(result)), mx.array(0.0))


def _arrays(tree: Any) -> Iterator[mx.array]:
    if isinstance(tree, mx.array):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _arrays(item)


def _has_arrays(tree: Any) -> bool:
    found: list[mx.array] = []
    tree_map(found.append, tree)
    return bool(found)


def _is_float(thing: Any) -> bool:
    return isinstance(thing, mx.array) and mx.issubdtype(thing.dtype, mx.floating)
