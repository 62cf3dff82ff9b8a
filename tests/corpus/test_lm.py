"""The models of mlx-lm, in miniature: trained, sampled from, and in the ways in which mlx-lm itself tunes them.

By default those that are different, and a third of the others, are trained under `nnrepl.trace`, and some are recorded
as a script, verified before anything is evaluated, and write text; with NNREPL_THOROUGH=1 all of them do everything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_map

from tests.corpus import lm
from tests.corpus.checks import (
    Call,
    check_entries,
    check_receipt,
    check_receipt_at_once,
    check_tape,
    check_walk,
    compare,
    compare_as_script,
    some,
)
from tests.support import plain_and_traced

TRAINABLE = [name for name in lm.MODELS if name not in lm.UNTRAINABLE]
TRAINED = sorted(lm.DIFFERENT.union(some(TRAINABLE, 3)))
VERIFIED = some(TRAINABLE, 2)
WRITING = [name for name in lm.MODELS if name not in lm.SILENT]


@pytest.mark.parametrize("name", TRAINED)
def test_training(name: str) -> None:
    model = lm.tiny(name).train()
    _, trace = plain_and_traced(lm.loss_of(model), [lm.tokens_for(name)], model)
    check_tape(trace)
    check_entries(trace)
    check_walk(trace)
    if name in VERIFIED:
        check_receipt(trace)


def training(name: str) -> Call:
    model = lm.tiny(name).train()
    return Call(lm.loss_of(model), [lm.tokens_for(name)], model)


@pytest.mark.parametrize("name", some(TRAINABLE, 3))
def test_training_as_a_script(name: str) -> None:
    compare_as_script(lambda: training(name))


@pytest.mark.parametrize("name", some(TRAINABLE, 6, 1))
def test_receipt_before_anything_is_evaluated(name: str) -> None:
    check_receipt_at_once(lambda: training(name))


@pytest.mark.parametrize("name", sorted(lm.UNTRAINABLE))
def test_forward_only(name: str) -> None:
    model = lm.tiny(name).train()
    _, trace = plain_and_traced(lm.loss_of(model), [lm.tokens_for(name)], None)
    check_tape(trace)
    check_entries(trace)
    check_walk(trace)
    assert compare(lambda: Call(lm.loss_of(model), [lm.tokens_for(name)], model)) is None


@pytest.mark.parametrize("name", some(WRITING, 3, 2))
def test_writing(name: str) -> None:
    """A prompt, then one sampled token at a time, with the model's own cache."""
    from mlx_lm.models.cache import make_prompt_cache

    model = lm.tiny(name).eval()

    def write(tokens: mx.array) -> list[list[int]]:
        cache = make_prompt_cache(model)
        written = []
        for _ in range(3):
            logits = model(tokens, cache=cache)[:, -1]
            tokens = mx.random.categorical(logits.astype(mx.float32))[:, None]
            written.append(tokens.tolist())
        return written

    _, trace = plain_and_traced(write, [lm.tokens_for(name)], None)
    check_tape(trace)


def half_precision(model: nn.Module) -> None:
    model.set_dtype(mx.bfloat16)


def checkpointed(model: nn.Module) -> None:
    from mlx_lm.tuner.trainer import grad_checkpoint

    grad_checkpoint(model.layers[0])


def tuned(model: nn.Module, use_dora: bool = False) -> None:
    from mlx_lm.tuner.utils import linear_to_lora_layers

    model.freeze()
    linear_to_lora_layers(model, 2, {"rank": 4, "dropout": 0.1, "scale": 10.0}, use_dora=use_dora)


def tuned_quantized(model: nn.Module) -> None:
    nn.quantize(model, group_size=32, bits=4, class_predicate=_is_divisible)
    tuned(model)


def _is_divisible(_: str, module: nn.Module) -> bool:
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0


WAYS: dict[str, Callable[[nn.Module], None]] = {
    "bfloat16": half_precision,
    "checkpoint": checkpointed,
    "dora": partial(tuned, use_dora=True),
    "lora": tuned,
    "quantized lora": tuned_quantized,
}
TRIED = [
    *[("llama", way) for way in WAYS],
    *[("mamba2", way) for way in WAYS],
    *[(name, way) for name in ("deepseek_v3", "qwen3_moe") for way in ("checkpoint", "lora", "quantized lora")],
    *[("gemma3n", way) for way in ("bfloat16", "checkpoint")],
]


@pytest.mark.parametrize(("name", "way"), TRIED)
def test_ways_of_training(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Call:
        model = lm.tiny(name)
        kind = type(model.layers[0])
        monkeypatch.setattr(kind, "__call__", original.setdefault(kind, kind.__call__))
        WAYS[way](model)
        return Call(lm.loss_of(model.train()), [lm.tokens_for(name)], model)

    original: dict[type, Any] = {}
    trace = compare(make)
    assert trace is not None
    check_tape(trace)
    check_walk(trace)
    check_receipt(trace)


def test_generate_step() -> None:
    """mlx-lm's own generation: streams of its own, asynchronous evaluation, samplers and logits processors."""
    from mlx_lm.generate import generate_step
    from mlx_lm.sample_utils import make_logits_processors, make_sampler

    model = lm.tiny("llama").eval()
    processors = make_logits_processors(repetition_penalty=1.3, repetition_context_size=4)

    def write() -> list[tuple[int, mx.array]]:
        sampler = make_sampler(temp=0.8, top_p=0.9, min_p=0.05, top_k=20)
        prompt = lm.tokens_for("llama")[0]
        return list(generate_step(prompt, model, max_tokens=5, sampler=sampler, logits_processors=processors))

    trace = compare(lambda: Call(write))
    assert trace is not None
    check_tape(trace)
    check_walk(trace)


def test_trainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """mlx-lm's own training loop: a compiled step, gradient accumulation, a schedule, adapters saved on the way."""
    from mlx_lm.tuner.trainer import TrainingArgs, train

    def make() -> Call:
        np.random.seed(0)  # batches are drawn with it
        model = lm.tiny("qwen2")
        tuned(model)
        optimizer = optim.AdamW(learning_rate=optim.cosine_decay(1e-2, 10))
        examples = [([1 + (at * k) % 60 for k in range(2, 9)], 0) for at in range(1, 9)]
        settings = TrainingArgs(
            batch_size=2,
            iters=4,
            val_batches=1,
            steps_per_report=2,
            steps_per_eval=2,
            steps_per_save=2,
            max_seq_length=16,
            adapter_file=str(tmp_path / "adapters.safetensors"),
            grad_accumulation_steps=2,
        )

        def run() -> None:
            train(model, optimizer, examples, examples, settings)

        return Call(run, after=lambda: (tree_map(mx.array, model.parameters()), optimizer.state))

    trace = compare(make)
    assert trace is not None
    check_tape(trace)
    check_walk(trace)
