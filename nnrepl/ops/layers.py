"""Layers: what the modules and loss functions of mlx.nn do as a whole, in one rule and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from nnrepl.classes import dataclass
from nnrepl.ops.entry import Row
from nnrepl.ops.pointwise import last
from nnrepl.ops.reductions import REDUCED, ROWS


@dataclass(frozen=True, slots=True)
class Whole:
    """A function or a module as a whole.

    Attributes:
        name: What people call it: "mean squared error".
        text: Its rule.
        words: What it means.
        row: Of a function whose rule is in the names of its arguments: which numbers of them belong together.
        slopes: Of such a function: by argument, how the gradient `g` of its result passes to it.
        options: What holds with other options: the option, its value, the rule and the slopes.
    """

    name: str
    text: str
    words: str
    row: Row | None = None
    slopes: Mapping[str, str] = field(default_factory=dict)
    options: tuple[tuple[str, Any, str, Mapping[str, str]], ...] = ()

    def called_with(self, given: Mapping[str, Any]) -> Whole:
        """Return it as it is in a call with some arguments."""
        for name, value, text, slopes in self.options:
            if given.get(name) == value:
                return replace(self, text=text, slopes=slopes, options=())
        return self


def _each(bound: Mapping[str, Any], rank: int) -> list[int]:
    """Return no axis: each number stands for itself."""
    return []


_EACH = Row(_each)


def _both(first: str, slope: str, where: str = "") -> dict[str, str]:
    """Return the slopes of what depends on a difference: one argument gets the gradient, `targets` minus it."""
    return {first: f"{slope}{where}", "targets": f"−{slope}{where}"}


_AHEAD = "[margin − targets · (inputs1 − inputs2) ≥ 0]"
_NEAR = "near = (Σ |anchors − positives|^p + eps)^(1 / p)"
_FAR = "far = (Σ |anchors − negatives|^p + eps)^(1 / p)"
_ROOTS = "near = √(Σ (anchors − positives)² + eps),  far = √(Σ (anchors − negatives)² + eps)"
_COUNTS = "g · [near − far + margin > 0]"
_TO_NEAR = "sign(anchors − positives) · |anchors − positives|^(p − 1) · near^(1 − p)"
_TO_FAR = "sign(anchors − negatives) · |anchors − negatives|^(p − 1) · far^(1 − p)"
_LENGTHS = "a = √(Σ x1²),  b = √(Σ x2²)"
_SPREAD_OUT = {
    "inputs": "−g · (targets − inputs) / v,  v = max(vars, eps)",
    "targets": "g · (targets − inputs) / v,  v = max(vars, eps)",
    "vars": "g · 0.5 · (1 − (targets − inputs)² / v) / v · [vars > eps],  v = max(vars, eps)",
}
_SHRINKS = "in proportion to the error, beyond that always the same"

LOSSES: dict[str, Whole] = {
    "mse_loss": Whole("mean squared error", "(predictions − targets)²",
                      "How far off the predictions are: large errors count more, because they are squared. Backwards: "
                      "twice the error, so that the farther off, the harder the pull.", _EACH,
                      _both("predictions", "g · 2 · (predictions − targets)")),
    "l1_loss": Whole("mean absolute error", "|predictions − targets|",
                     "How far off the predictions are. Backwards: the gradient has the same size however large the "
                     "error is.", _EACH, _both("predictions", "g · sign(predictions − targets)")),
    "cross_entropy": Whole("cross-entropy", "−ln(share of the right answer),  shares = exp(logits) / Σ exp(logits)",
                           "How surprised the shares are by the right answer. Backwards: a logit gets its share, less "
                           "1 where it is the right answer, times what arrives."),
    "binary_cross_entropy": Whole(
        "binary cross-entropy", "−(targets · ln(p) + (1 − targets) · ln(1 − p)),  p = 1 / (1 + exp(−inputs))",
        "How surprised the probability p of yes is by what is so, 1 (yes) or 0 (no). Backwards: what was said, less "
        "what is so.", _EACH,
        {"inputs": "g · (p − targets),  p = 1 / (1 + exp(−inputs))", "targets": "−g · inputs"},
        (("with_logits", False, "−(targets · max(ln(inputs), −100) + (1 − targets) · max(ln(1 − inputs), −100))", {
            "inputs": "−g · (targets / inputs · [ln(inputs) > −100] − (1 − targets) / (1 − inputs) · "
                      "[ln(1 − inputs) > −100])",
            "targets": "−g · (max(ln(inputs), −100) − max(ln(1 − inputs), −100))"}),)),
    "nll_loss": Whole("negative log-likelihood", "−inputs[targets]",
                      "What goes in are logarithms of shares; the one of the right answer counts. Backwards: that one "
                      "is to grow, the others get nothing (j counts the classes).",
                      Row(last, reduces=True, whole=("inputs",)), {"inputs": "−g · [j = targets]"}),
    "kl_div_loss": Whole("Kullback-Leibler divergence", "Σ exp(targets) · (targets − inputs)",
                         "How much one distribution differs from another, in units of surprise. Backwards: each "
                         "logarithm is to grow by the share that is wanted.", REDUCED,
                         {"inputs": "−g · exp(targets)", "targets": "g · exp(targets) · (targets − inputs + 1)"}),
    "smooth_l1_loss": Whole("smooth absolute error", "0.5 · d² / beta if |d| < beta else |d| − 0.5 · beta,  "
                            "d = predictions − targets",
                            f"Squared for small errors, absolute for large ones. Backwards: {_SHRINKS}.", _EACH,
                            _both("predictions", "g · (d / beta if |d| < beta else sign(d))",
                                  where=",  d = predictions − targets")),
    "huber_loss": Whole("Huber loss", "0.5 · d² if |d| ≤ delta else delta · (|d| − 0.5 · delta),  d = inputs − targets",
                        f"Squared for small errors, absolute for large ones. Backwards: {_SHRINKS}.", _EACH,
                        _both("inputs", "g · (d if |d| ≤ delta else delta · sign(d))",
                              where=",  d = inputs − targets")),
    "hinge_loss": Whole("hinge loss", "max(1 − inputs · targets, 0)",
                        "No loss where the answer is right by a margin of 1. Backwards: there nothing arrives, else "
                        "towards the right side.", _EACH,
                        {"inputs": "−g · targets · [1 − inputs · targets > 0]",
                         "targets": "−g · inputs · [1 − inputs · targets > 0]"}),
    "log_cosh_loss": Whole("log-cosh loss", "ln(cosh(inputs − targets))",
                           "Squared for small errors, absolute for large ones, smooth between. Backwards: the error, "
                           "squeezed into −1 to 1.", _EACH, _both("inputs", "g · tanh(inputs − targets)")),
    "cosine_similarity_loss": Whole(
        "cosine similarity", f"d / max(a · b, eps),  d = Σ x1 · x2,  {_LENGTHS}",
        "The cosine of the angle between two vectors, a and b long: 1 where they point the same way. Backwards: "
        "towards the other vector, less what would only make this one longer.", REDUCED,
        {"x1": f"g · (x2 / (a · b) − y · x1 / a² if a · b > eps else x2 / eps),  {_LENGTHS}",
         "x2": f"g · (x1 / (a · b) − y · x2 / b² if a · b > eps else x1 / eps),  {_LENGTHS}"}),
    "triplet_loss": Whole(
        "triplet loss", f"max(near − far + margin, 0),  {_NEAR},  {_FAR}",
        "What belongs together is to be nearer than what does not, by a margin. Backwards: where it is not, towards "
        "the one and away from the other.", REDUCED,
        {"anchors": f"{_COUNTS} · ({_TO_NEAR} − {_TO_FAR}),  {_NEAR},  {_FAR}",
         "positives": f"−{_COUNTS} · {_TO_NEAR},  {_NEAR},  {_FAR}",
         "negatives": f"{_COUNTS} · {_TO_FAR},  {_NEAR},  {_FAR}"},
        (("p", 2, f"max(near − far + margin, 0),  {_ROOTS}", {
            "anchors": f"{_COUNTS} · ((anchors − positives) / near − (anchors − negatives) / far),  {_ROOTS}",
            "positives": f"−{_COUNTS} · (anchors − positives) / near,  {_ROOTS}",
            "negatives": f"{_COUNTS} · (anchors − negatives) / far,  {_ROOTS}"}),)),
    "gaussian_nll_loss": Whole(
        "Gaussian negative log-likelihood", "0.5 · (ln(v) + (targets − inputs)² / v),  v = max(vars, eps)",
        "How unlikely the targets are under a bell curve of this mean and variance. Backwards: towards the target, "
        "the harder the surer it was (the smaller v).", _EACH, _SPREAD_OUT,
        (("full", True, "0.5 · (ln(v) + (targets − inputs)² / v) + 0.5 · ln(2 · π),  v = max(vars, eps)",
          _SPREAD_OUT),)),
    "margin_ranking_loss": Whole(
        "margin ranking loss", "max(−targets · (inputs1 − inputs2) + margin, 0)",
        "No loss where the right one is ahead by a margin. Backwards: where it is not, the one is to grow and the "
        "other to shrink.", _EACH,
        {"inputs1": f"−g · targets · {_AHEAD}", "inputs2": f"g · targets · {_AHEAD}",
         "targets": f"−g · (inputs1 − inputs2) · {_AHEAD}"}),
}  # fmt: skip

_WANTED = "−Σ {} · ln(shares),  shares = exp(logits) / Σ exp(logits)"
CROSS_ENTROPIES: dict[str, Whole] = {
    "places": LOSSES["cross_entropy"],
    "shares": replace(LOSSES["cross_entropy"], text=_WANTED.format("targets")),
    "smoothed": replace(LOSSES["cross_entropy"], text=_WANTED.format("wanted")),
}
"""How the right answers of a cross-entropy can be given."""

_S = "s = 1 / (1 + exp(−x))"
_T = "t = tanh(√(2 / π) · (x + 0.044715 · x³))"
_BELL = "P = (1 + erf(x / √2)) / 2,  p = exp(−x² / 2) / √(2 · π)"
_RECTIFIED = "Backwards: where it was above 0 the gradient passes, else nothing does."

ACTIVATIONS: dict[str, Whole] = {
    "sigmoid": Whole("sigmoid", "1 / (1 + exp(−x))", "Squeezes into 0 to 1. Backwards: almost nothing passes near the "
                     "ends, where it is flat.", _EACH, {"x": "g · y · (1 − y)"}),
    "tanh": Whole("tanh", "tanh(x)", "Squeezes into −1 to 1. Backwards: almost nothing passes near the ends, where it "
                  "is flat.", _EACH, {"x": "g · (1 − y²)"}),
    "relu": Whole("the rectifier", "max(x, 0)", f"What is negative becomes 0. {_RECTIFIED}", _EACH,
                  {"x": "g · [x > 0]"}),
    "relu2": Whole("the squared rectifier", "max(x, 0)²", "What is negative becomes 0, what is positive is squared. "
                   "Backwards: the more passes the larger it was.", _EACH, {"x": "g · 2 · max(x, 0)"}),
    "relu6": Whole("the rectifier up to 6", "min(max(x, 0), 6)", "What is negative becomes 0, what is above 6 is 6. "
                   "Backwards: nothing passes beyond either end.", _EACH, {"x": "g · [x > 0] · [x < 6]"}),
    "leaky_relu": Whole("the leaky rectifier", "max(negative_slope · x, x)", "What is negative keeps a small slope. "
                        "Backwards: there only that part of the gradient passes.", _EACH,
                        {"x": "g · (negative_slope if negative_slope · x > x else 1)"}),
    "prelu": Whole("the leaky rectifier, learned", "max(0, x) + alpha · min(0, x)",
                   "What is negative keeps a slope that is trained. Backwards: there only that part of the gradient "
                   "passes.", _EACH, {"x": "g · [x ≥ 0] + g · alpha · [x ≤ 0]", "alpha": "g · min(0, x)"}),
    "elu": Whole("the exponential rectifier", "x if x > 0 else alpha · (exp(x) − 1)",
                 "What is negative goes down to −alpha, smoothly. Backwards: the less passes the lower it was.", _EACH,
                 {"x": "g if x > 0 else g · alpha · exp(x)"}),
    "celu": Whole("the exponential rectifier, smooth", "max(x, 0) + alpha · (exp(min(x, 0) / alpha) − 1)",
                  "What is negative goes down to −alpha, without a kink. Backwards: the less passes the lower it was.",
                  _EACH, {"x": "g · [x > 0] + g · exp(x / alpha) · [x < 0]"}),
    "selu": Whole("the scaled exponential rectifier", "1.0507 · (x if x > 0 else 1.67326 · (exp(x) − 1))",
                  "Scaled so that mean 0 and spread 1 stay as they are from layer to layer. Backwards: below 0 the "
                  "less passes the lower it was.", _EACH, {"x": "g · 1.0507 · (1 if x > 0 else 1.67326 · exp(x))"}),
    "softplus": Whole("softplus", "ln(1 + exp(x))", "A smooth rectifier. Backwards: its slope is the sigmoid.", _EACH,
                      {"x": "g / (1 + exp(−x))"}),
    "softsign": Whole("softsign", "x / (1 + |x|)", "Squeezes into −1 to 1, more slowly than tanh. Backwards: less "
                      "passes the farther out it was.", _EACH, {"x": "g / (1 + |x|)²"}),
    "softshrink": Whole("soft shrinkage", "x − sign(x) · lambd if |x| > lambd else 0",
                        "What is small becomes 0, the rest comes nearer to it. Backwards: what became 0 gets nothing.",
                        _EACH, {"x": "g if |x| > lambd else 0"}),
    "hard_shrink": Whole("hard shrinkage", "x if |x| > lambd else 0", "What is small becomes 0. Backwards: what became "
                         "0 gets nothing.", _EACH, {"x": "g if |x| > lambd else 0"}),
    "hard_tanh": Whole("hard tanh", "min(max(x, min_val), max_val)", "What is beyond the limits is cut to them. "
                       "Backwards: there nothing passes.", _EACH, {"x": "g · [x > min_val] · [x < max_val]"}),
    "hardswish": Whole("hard SiLU", "x · min(max(x + 3, 0), 6) / 6", "A SiLU out of straight lines. Backwards: the "
                       "gate, and how the gate changes with the number.", _EACH,
                       {"x": "g · (min(max(x + 3, 0), 6) + x · [x + 3 > 0] · [x + 3 < 6]) / 6"}),
    "silu": Whole("SiLU", "x / (1 + exp(−x))", "Each number times its sigmoid: a smooth rectifier. Backwards: the "
                  "sigmoid s, and how s changes with the number.", _EACH, {"x": f"g · (s + x · s · (1 − s)),  {_S}"}),
    "mish": Whole("Mish", "x · tanh(ln(1 + exp(x)))", "A smooth rectifier that dips below 0. Backwards: the factor t, "
                  "and how t changes with the number.", _EACH,
                  {"x": "g · (t + x · (1 − t²) / (1 + exp(−x))),  t = tanh(ln(1 + exp(x)))"}),
    "gelu": Whole("GELU", "x · (1 + erf(x / √2)) / 2",
                  "Each number times the share of the bell curve below it: a smooth rectifier. Backwards: that share "
                  "P, and the height p of the curve, by which P changes.", _EACH, {"x": f"g · (P + x · p),  {_BELL}"}),
    "gelu_approx": Whole("GELU, nearly", f"0.5 · x · (1 + t),  {_T}",
                         "Each number times about the share of the bell curve below it: a smooth rectifier. "
                         "Backwards: that share, and how it changes with the number.", _EACH,
                         {"x": "g · 0.5 · (1 + t + x · (1 − t²) · √(2 / π) · (1 + 3 · 0.044715 · x²)),  " + _T}),
    "gelu_fast_approx": Whole("GELU, roughly", "x / (1 + exp(−1.702 · x))",
                              "Each number times a sigmoid that is near the share of the bell curve below it. "
                              "Backwards: the sigmoid s, and how s changes with the number.", _EACH,
                              {"x": "g · (s + x · 1.702 · s · (1 − s)),  s = 1 / (1 + exp(−1.702 · x))"}),
    "step": Whole("a step", "1 if x ≥ threshold else 0", "Yes or no; no gradient passes.", _EACH),
    "log_sigmoid": Whole("log-sigmoid", "−ln(1 + exp(−x))", "The logarithm of the probability that x stands for. "
                         "Backwards: the probability of the opposite.", _EACH, {"x": "g / (1 + exp(x))"}),
    "log_softmax": Whole("log-softmax", "x − ln(Σ exp(x))",
                         "The logarithms of the shares that softmax makes: each number less the soft maximum of its "
                         "row. Backwards: what arrives, less its share of the sum of all that arrives in the row.",
                         ROWS, {"x": "g − exp(y) · Σ g"}),
    "softmax": Whole("softmax", "exp(x) / Σ exp(x)", "Numbers become shares that add up to 1. Backwards: a share grows "
                     "only as far as its gradient beats the average of the row.", ROWS, {"x": "y · (g − Σ g · y)"}),
    "softmin": Whole("softmin", "exp(−x) / Σ exp(−x)", "Shares that add up to 1: the smallest gets the most. "
                     "Backwards: as softmax, with the other sign.", ROWS, {"x": "−y · (g − Σ g · y)"}),
    "glu": Whole("a gated linear unit", "the first half of x · sigmoid(the second half)",
                 "Each number is let through as far as its gate, between 0 and 1, is open."),
}  # fmt: skip
"""The activation functions of mlx.nn, under their own names and those of their arguments."""

_SPREAD = Whole(
    "a transposed convolution",
    "each number of x · weight, spread over a window, + bias",
    "A convolution backwards: each number gives to all the places of its window.",
)
_CHANNELS = Whole(
    "dropout of whole channels",
    "x · mask / (1 − p)",
    "In training a share p of the channels, drawn at random, becomes 0; the others grow.",
)

_BY_MODULE = {
    "ReLU": "relu", "ReLU2": "relu2", "ReLU6": "relu6", "LeakyReLU": "leaky_relu", "PReLU": "prelu", "ELU": "elu",
    "CELU": "celu", "SELU": "selu", "GELU": "gelu", "SiLU": "silu", "Mish": "mish", "Hardswish": "hardswish",
    "Softplus": "softplus", "Softsign": "softsign", "Tanh": "tanh", "HardTanh": "hard_tanh", "Sigmoid": "sigmoid",
    "LogSigmoid": "log_sigmoid", "Softshrink": "softshrink", "HardShrink": "hard_shrink", "Step": "step",
    "Softmax": "softmax", "Softmin": "softmin", "LogSoftmax": "log_softmax", "GLU": "glu",
}  # fmt: skip

LAYERS: dict[str, Whole] = {
    **{module: ACTIVATIONS[function] for module, function in _BY_MODULE.items()},
    "Linear": Whole("a linear layer", "x @ weightᵀ + bias",
                    "Each output is a weighted sum of all inputs, and a constant: a row of the weight is a neuron."),
    "Embedding": Whole("an embedding", "weight[token]", "A table: each token takes its row."),
    "Conv1d": Whole("a convolution", "windows of x · weight + bias", "The same small weighted sum at every place."),
    "Conv2d": Whole("a convolution", "windows of x · weight + bias", "The same small weighted sum at every place."),
    "ConvTranspose1d": _SPREAD, "ConvTranspose2d": _SPREAD, "ConvTranspose3d": _SPREAD,
    "Bilinear": Whole("a bilinear layer", "x1 @ weight @ x2 + bias",
                      "Each output is a weighted sum of all products of a number of x1 and one of x2."),
    "Identity": Whole("the identity", "x", "What goes in comes out."),
    "QuantizedLinear": Whole("a quantized linear layer", "x @ weightᵀ + bias, weight = scales · q + biases",
                             "A linear layer whose weights are whole numbers q of a few bits, with a scale and an "
                             "offset for each group."),
    "QQLinear": Whole("a linear layer, quantized on both sides", "x @ weightᵀ, both rounded to a few bits",
                      "What goes in is rounded as the weights are, group by group."),
    "QuantizedEmbedding": Whole("a quantized embedding", "weight[token], weight = scales · q + biases",
                                "A table of whole numbers of a few bits: each token takes its row."),
    "Conv3d": Whole("a convolution", "windows of x · weight + bias", "The same small weighted sum at every place."),
    "LayerNorm": Whole("layer normalization", "(x − mean) / √(var + eps) · weight + bias",
                       "Every row gets mean 0 and spread 1, then its own scale and shift."),
    "RMSNorm": Whole("RMS normalization", "x / √(mean x² + eps) · weight",
                     "Every row gets the size 1, then its own scale."),
    "BatchNorm": Whole("batch normalization", "(x − mean) / √(var + eps) · weight + bias",
                       "Every feature gets mean 0 and spread 1 over the batch (in training), then its own scale."),
    "GroupNorm": Whole("group normalization", "(x − mean) / √(var + eps) · weight + bias",
                       "Groups of features get mean 0 and spread 1."),
    "InstanceNorm": Whole("instance normalization", "(x − mean) / √(var + eps) · weight + bias",
                          "Every feature of every sample gets mean 0 and spread 1."),
    "Dropout2d": _CHANNELS, "Dropout3d": _CHANNELS,
    "Dropout": Whole("dropout", "x · mask / (1 − p)",
                     "In training a share p of the numbers, drawn at random, becomes 0; the "
                     "others grow, so that the sum stays what it was on average."),

    "MultiHeadAttention": Whole("multi-head attention", "softmax(Q @ Kᵀ / √d) @ V, projected",
                                "Each position asks the others (queries Q, d numbers each, against keys K), and "
                                "takes what they say (values V) by the shares that come out; several heads ask "
                                "different questions."),
    "RNN": Whole("a recurrent layer", "tanh(x @ Wxhᵀ + before @ Whhᵀ + bias), one step after the other",
                 "Each step sees its input and what the step before has left behind."),
    "GRU": Whole("a gated recurrent layer", "(1 − z) · n + z · before, one step after the other",
                 "What the step would say is n, and the gate z (0 to 1) tells how much of what was before is kept."),
    "LSTM": Whole("a long short-term memory", "f · before + i · g,  hidden = o · tanh(cell)",
                  "One step after the other: the cell keeps a part f of what it held before and takes in a part i of "
                  "what is new, g; a part o of it is shown."),
    "Sequential": Whole("layers in a row", "the last layer of … of the first layer of x", "One layer after the other."),
    "RoPE": Whole("rotary positions", "pairs of x turned by position · frequency", "Positions become angles."),
    **dict.fromkeys(("MaxPool1d", "MaxPool2d", "MaxPool3d"), Whole(
        "max pooling", "the largest number of each window", "Keeps the strongest answer of each place.")),
    **dict.fromkeys(("AvgPool1d", "AvgPool2d", "AvgPool3d"), Whole(
        "average pooling", "the mean of each window", "Smooths, and makes smaller.")),
    "Upsample": Whole("upsampling", "numbers between those of x", "Makes larger: repeats the nearest, or goes smoothly "
                      "from one to the next."),
    "ALiBi": Whole("attention with a slope",
                   "scores − slope · distance", "The farther away, the less a position counts."),
    "SinusoidalPositionalEncoding": Whole("positions as waves", "sin and cos of position · frequency",
                                          "Each position gets a pattern of its own, near ones similar patterns."),
    "TransformerDecoderLayer": Whole("a transformer block that listens to another", "attention to itself, attention to "
                                     "the memory, then a small network, each added to its input",
                                     "Positions talk to each other, then to what was read before."),
    "TransformerEncoder": Whole("transformer blocks in a row", "the last block of … of the first block of x",
                                "One block after the other."),
    "TransformerDecoder": Whole("transformer blocks in a row", "the last block of … of the first block of x",
                                "One block after the other, each with the memory."),
    "Transformer": Whole("a transformer", "decoder(targets, encoder(source))",
                         "One part reads the source, the other writes and looks back at it."),
    "TransformerEncoderLayer": Whole("a transformer block", "attention, then a small network, each added to its input",
                                     "Positions talk to each other, then each thinks for itself."),
}  # fmt: skip
