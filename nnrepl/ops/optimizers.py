"""Optimizers: one update of one parameter, as text and in plain MLX.

Sources: mlx/python/mlx/optimizers/optimizers.py; Kingma & Ba 2015 (Adam); Loshchilov & Hutter 2019 (AdamW).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass

State = dict[str, mx.array]


@dataclass(frozen=True, slots=True)
class UpdateRule:
    """How an optimizer changes a parameter.

    Attributes:
        name: The class of mlx.optimizers.
        words: In a sentence.
        run: `run(w, g, state, lr, step, options)` gives the new parameter and the new state.
        state: What it keeps between steps, by the name in the optimizer's state.
    """

    name: str
    words: str
    run: Callable[[mx.array, mx.array, State, Any, Any, dict[str, Any]], tuple[mx.array, State]]
    state: tuple[str, ...] = ()


def _sgd(w: mx.array, g: mx.array, state: State, lr: Any, step: Any, options: dict[str, Any]) -> tuple[mx.array, State]:
    g = g + options["weight_decay"] * w
    mu = options["momentum"]
    if mu <= 0:
        return w - lr * g, {}
    v = mu * state["v"] + (1 - options["dampening"]) * g
    direction = g + mu * v if options["nesterov"] else v
    return w - lr * direction, {"v": v}


def _adam(
    w: mx.array, g: mx.array, state: State, lr: Any, step: Any, options: dict[str, Any]
) -> tuple[mx.array, State]:
    b1, b2 = options["betas"]
    m = b1 * state["m"] + (1 - b1) * g
    v = b2 * state["v"] + (1 - b2) * g * g
    if options["bias_correction"]:
        m_hat, v_hat = m / (1 - b1**step), v / (1 - b2**step)
    else:
        m_hat, v_hat = m, v
    return w - lr * m_hat / (mx.sqrt(v_hat) + options["eps"]), {"m": m, "v": v}


def _adamw(
    w: mx.array, g: mx.array, state: State, lr: Any, step: Any, options: dict[str, Any]
) -> tuple[mx.array, State]:
    return _adam(w * (1 - lr * options["weight_decay"]), g, state, lr, step, options)


RECIPES: dict[str, UpdateRule] = {
    recipe.name: recipe
    for recipe in (
        UpdateRule("SGD", "Goes a step against the gradient; with momentum, against a running sum of gradients that "
                      "forgets "
               "slowly.", _sgd, ("v",)),
        UpdateRule("Adam", "Keeps a running mean m of the gradient and a running mean v of its square, and goes a "
                       "step of about "
               "the learning rate, whatever the size of the gradient: m / √v.", _adam, ("m", "v")),
        UpdateRule("AdamW", "Shrinks the weight a little (weight decay), then goes Adam's step.", _adamw, ("m", "v")),
    )
}  # fmt: skip
"""The optimizers that are explained with numbers."""
