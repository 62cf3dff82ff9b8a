"""Layers: what the modules and loss functions of mlx.nn do as a whole, in one rule and a sentence."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Whole:
    """A function or a module as a whole.

    Attributes:
        name: What people call it: "mean squared error".
        text: Its rule.
        words: What it means.
    """

    name: str
    text: str
    words: str


LOSSES: dict[str, Whole] = {
    "mse_loss": Whole("mean squared error", "(predictions − targets)²",
                      "How far off the predictions are: large errors count more, because they are squared."),
    "l1_loss": Whole("mean absolute error", "|predictions − targets|",
                     "How far off the predictions are; the gradient has the same size however large the error is."),
    "cross_entropy": Whole("cross-entropy", "−ln(share of the right answer),  shares = exp(logits) / Σ exp(logits)",
                           "How surprised the shares are by the right answer. Backwards: a logit gets its share, less "
                           "1 where it is the right answer, times what arrives."),
    "binary_cross_entropy": Whole("binary cross-entropy", "−(target · ln p + (1 − target) · ln(1 − p))",
                                  "How surprised the probability p is by yes or no; by default p = sigmoid(inputs)."),
    "nll_loss": Whole("negative log-likelihood", "−inputs[target]",
                      "What goes in are logarithms of shares; the one of the right answer counts."),
    "kl_div_loss": Whole("Kullback-Leibler divergence", "Σ exp(targets) · (targets − inputs)",
                         "How much one distribution differs from another, in units of surprise."),
    "smooth_l1_loss": Whole("smooth absolute error", "0.5 · d² / beta if |d| < beta else |d| − 0.5 · beta,  "
                            "d = predictions − targets", "Squared for small errors, absolute for large ones."),
    "huber_loss": Whole("Huber loss", "0.5 · d² if |d| ≤ delta else delta · (|d| − 0.5 · delta),  d = inputs − targets",
                        "Squared for small errors, absolute for large ones."),
    "hinge_loss": Whole("hinge loss", "max(1 − inputs · targets, 0)",
                        "No loss where the answer is right by a margin of 1."),
    "log_cosh_loss": Whole("log-cosh loss", "ln cosh(inputs − targets)",
                           "Squared for small errors, absolute for large ones, smooth between."),
    "cosine_similarity_loss": Whole("cosine similarity", "x1 · x2 / (‖x1‖ · ‖x2‖)",
                                    "The cosine of the angle between two vectors."),
    "triplet_loss": Whole("triplet loss", "max(‖anchors − positives‖ − ‖anchors − negatives‖ + margin, 0)",
                          "What belongs together is to be closer than what does not, by a margin."),
    "gaussian_nll_loss": Whole("Gaussian negative log-likelihood", "0.5 · (ln vars + (targets − inputs)² / vars)",
                               "How unlikely the targets are under a bell curve of this mean and variance."),
    "margin_ranking_loss": Whole("margin ranking loss", "max(−targets · (inputs1 − inputs2) + margin, 0)",
                                 "No loss where the right one is ahead by a margin."),
}  # fmt: skip

_WANTED = "−Σ {} · ln(shares),  shares = exp(logits) / Σ exp(logits)"
CROSS_ENTROPIES: dict[str, Whole] = {
    "places": LOSSES["cross_entropy"],
    "shares": replace(LOSSES["cross_entropy"], text=_WANTED.format("targets")),
    "smoothed": replace(LOSSES["cross_entropy"], text=_WANTED.format("wanted")),
}
"""How the right answers of a cross-entropy can be given."""

ACTIVATIONS: dict[str, Whole] = {
    "log_softmax": Whole("log-softmax", "x − ln(Σ exp(x))",
                         "The logarithms of the shares that softmax makes: each number less the soft maximum of its "
                         "row. Backwards: what arrives, less its share of the sum of all that arrives in the row."),
    "log_sigmoid": Whole("log-sigmoid", "−ln(1 + exp(−x))", "The logarithm of the probability that x stands for."),
    "gelu": Whole("GELU", "x · (1 + erf(x / √2)) / 2",
                  "Each number times the share of the bell curve below it: a smooth rectifier."),
    "silu": Whole("SiLU", "x / (1 + exp(−x))", "Each number times its sigmoid: a smooth rectifier."),
    "softplus": Whole("softplus", "ln(1 + exp(x))", "A smooth rectifier; its slope is the sigmoid."),
    "mish": Whole("Mish", "x · tanh(ln(1 + exp(x)))", "A smooth rectifier that dips below 0."),
    "relu6": Whole("the rectifier up to 6", "min(max(x, 0), 6)", "What is negative becomes 0, what is above 6 is 6."),
}  # fmt: skip

LAYERS: dict[str, Whole] = {
    "Linear": Whole("a linear layer", "x @ weightᵀ + bias",
                    "Each output is a weighted sum of all inputs, and a constant: a row of the weight is a neuron."),
    "Embedding": Whole("an embedding", "weight[token]", "A table: each token takes its row."),
    "Conv1d": Whole("a convolution", "windows of x · weight + bias", "The same small weighted sum at every place."),
    "Conv2d": Whole("a convolution", "windows of x · weight + bias", "The same small weighted sum at every place."),
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
    "Dropout": Whole("dropout", "x · mask / (1 − p)",
                     "In training a share p of the numbers, drawn at random, becomes 0; the "
                     "others grow, so that the sum stays what it was on average."),
    "ReLU": Whole("the rectifier", "max(x, 0)", "What is negative becomes 0."),
    "GELU": Whole("GELU", "x · Φ(x)", "Each number times the share of the bell curve below it: a smooth rectifier."),
    "SiLU": Whole("SiLU", "x · sigmoid(x)", "A smooth rectifier."),
    "Tanh": Whole("tanh", "tanh(x)", "Squeezes into −1 to 1."),
    "Sigmoid": Whole("sigmoid", "1 / (1 + exp(−x))", "Squeezes into 0 to 1."),
    "Softmax": Whole("softmax", "exp(x) / Σ exp(x)", "Numbers become shares that add up to 1."),
    "MultiHeadAttention": Whole("multi-head attention", "softmax(Q @ Kᵀ / √d) @ V, projected",
                                "Each position asks the others (queries against keys), and takes what they say "
                                "(values) by the shares that come out; several heads ask different questions."),
    "RNN": Whole("a recurrent layer", "h = tanh(x @ Wxhᵀ + h @ Whhᵀ + bias), step by step",
                 "Each step sees its input and what the steps before have left behind."),
    "GRU": Whole("a gated recurrent layer", "h = (1 − z) · n + z · h, step by step",
                 "A gate z decides how much of the old state is kept."),
    "LSTM": Whole("a long short-term memory", "c = f · c + i · g,  h = o · tanh(c), step by step",
                  "Gates decide what is forgotten, what is taken in, and what is shown."),
    "Sequential": Whole("layers in a row", "the last layer of … of the first layer of x", "One layer after the other."),
    "RoPE": Whole("rotary positions", "pairs of x turned by position · frequency", "Positions become angles."),
    "MaxPool2d": Whole("max pooling", "the largest number of each window", "Keeps the strongest answer of each place."),
    "AvgPool2d": Whole("average pooling", "the mean of each window", "Smooths, and makes smaller."),
    "TransformerEncoderLayer": Whole("a transformer block", "attention, then a small network, each added to its input",
                                     "Positions talk to each other, then each thinks for itself."),
}  # fmt: skip
