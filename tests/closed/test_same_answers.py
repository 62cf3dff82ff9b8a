"""What is said where steps ran natively is what is said where every op was recorded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.closed.programs import HEAD, PROGRAMS
from tests.closed.test_closed import QUIET, _main, captured

__all__ = ["_main"]

DRAWN = PROGRAMS["adam"].replace("    loss, grads = learn", "    x = X + 0; y = x.sum()\n    loss, grads = learn")
AFTER = PROGRAMS["lazy"] + "print(sum(p.sum().item() for _, p in tree_flatten(model.parameters())))\n"
FAILS = PROGRAMS["adam"].replace("    loss, grads = learn", "    if i == 7: X = X[:, :3]\n    loss, grads = learn")
AVERAGED = PROGRAMS["adam"].replace(
    "    mx.eval(", "    mean = tree_map(lambda a: a * 0.5, model.parameters())\n    mx.eval("
)
CLIPPED = PROGRAMS["adam"].replace("    opt.up", "    grads, norm = optim.clip_grad_norm(grads, 1.0)\n    opt.up")
CLIPPED = CLIPPED.replace("if i % 5 == 0: print", "print")
NORMED = PROGRAMS["adam"].replace(
    "    if i % 5", "    print(loss.item(), mx.linalg.norm(grads['last']['weight']).item())\n    if i % 5"
)
NESTED = PROGRAMS["adam"].replace("z = mx.tanh(self.first(x))", "z = both(self.first(x)) * mx.tanh(kept['u'])")
NESTED = NESTED.replace(
    "learn = nn.",
    """kept = {}
def both(h):
    def outer(q):
        def inner(r):
            kept["u"] = r * r
            return (kept["u"] * r).sum()
        return (mx.grad(inner)(q) * kept["u"]).sum()
    return mx.grad(outer)(h)
learn = nn.""",
)
COMPILED = NESTED.replace(
    "for i in",
    """
@partial(mx.compile, inputs=[model.state, opt.state], outputs=[model.state, opt.state])
def train(x, y):
    loss, grads = learn(model, x, y); opt.update(model, grads)
    return loss
for i in""",
).replace("loss, grads = learn(model, X, Y)\n    opt.update(model, grads)", "loss = train(X, Y)")
GIVEN = """
w, opt = {"a": mx.full((4, 1), 0.5)}, optim.SGD(0.1)
learn = mx.value_and_grad(lambda w, x: (x @ w["a"]).square().mean())
for i in range(6):
    x = X[i : i + 4]
    loss, grads = learn(w, x)
    w = opt.apply_gradients(grads, w)
    mx.eval(w)
"""
PARAMETERS = ("p first.bias", "p first.weight[0, :2]", "p first.bias.m", "stats last.weight", "display last.bias",
              "info parameters", "what first.bias", "p grad(first.bias)", "info gradients", "p z[0]", "p d",
              "watch last.bias")  # fmt: skip


def said(native: str, file: Path, *lines: str) -> list[str]:
    """What nnrepl says to some commands, but for what it says of closed steps, their ops, and what it evaluated."""
    commands = [part for line in (f"config native {native}", *lines) for part in ("-c", line)]
    shown = captured("--batch", *commands, str(file)).splitlines()[1:]
    shown = [re.sub(r"^(.? +\d+) +\d+( +\d+ +\w+ +\S+:\d+)", r"\1 n\2", line) for line in shown]
    shown = [line.replace(" ● ", "   ") for line in shown]  # weights that natively MLX writes over are made again
    own = r"opening |Evaluated \d+ ops? for|Nothing had to be ev|All steps are recorded|steps? .* (?:is|are) closed"
    return [line for line in shown if not re.match(own, line)]


@pytest.mark.parametrize(
    ("program", "lines"),
    [
        (DRAWN, ("goto step 5", *PARAMETERS)),
        (DRAWN, ("goto step 5", "until tanh", *PARAMETERS)),
        (DRAWN, ("continue", *PARAMETERS)),
        (DRAWN, ("continue", "goto step 8", "last z", "why loss", "goto step 4", "p last.bias.v")),
        (DRAWN, ("goto step 6", "why loss", "why grad(last.bias) == 0", "health", "check pass")),
        (AFTER, ("continue", "rn", "back", "back 3", "where")),
        (AFTER, ("goto end", "back 200", "where", "goto step 9", "rn 2", "rfin", "where")),
        (FAILS, ("continue", "goto tanh", "where", "goto subtract", "where")),
        (AVERAGED, ("goto step 5", "rs", "p #2")),
        (CLIPPED, ("continue", "goto step 5 update", "s 4", "ops update", "p opt.step", "info steps all")),
        (NORMED, ("continue", "info steps", "goto step 5 backward", "where")),
        (NESTED, ("continue", "goto step 5", "until tanh", "p kept['u'][0]", "goto step 7", "p z")),
        (COMPILED, ("continue", "goto step 5", "until tanh", "p kept['u'][0]", "goto step 7", "p z")),
        (GIVEN, ("continue", "goto step 4", "p w['a']", "p grads['a']", "goto step 2", "p w['a']")),
        (AVERAGED, ("continue", "kk = mx.ones((2,)) * 3", "goto step 4", "p last.bias", "goto end", "p kk")),
    ],
    ids=[
        "top level",
        "in a pass",
        "at the end",
        "before",
        "questions",
        "behind the last update",
        "far back",
        "a place before",
        "an address",
        "names in an update",
        "gradients are looked at behind the update",
        "kept in a nested call of a nested call",
        "the same, compiled",
        "what the last closed call gave",
        "a cell behind what was not seen",
    ],
)
def test_the_same_is_said(program: str, lines: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text("from functools import partial\n" + HEAD + QUIET + program)
    assert said("on", file, *lines) == said("off", file, *lines)


def test_an_update_that_goes_elsewhere_is_found_where_its_step_was_closed(tmp_path: Path) -> None:
    """What differs between the last two steps is looked at, natively as well."""
    file = tmp_path / "train.py"
    copied = "    twin = copy.deepcopy(model) if not i else twin\n    loss, grads = learn"
    elsewhere = PROGRAMS["adam"].replace("opt.update(model", "opt.update(twin")
    elsewhere = elsewhere.replace("    loss, grads = learn", copied)
    for program, found in ((elsewhere, True), (PROGRAMS["adam"], False)):
        file.write_text("import copy\n" + HEAD + QUIET + program)
        shown = " ".join(said("on", file, "continue", "health"))
        assert ("discarded update" in shown) == found, shown
        assert ("nothing is wrong" in shown) != found, shown


HIDDEN = PROGRAMS["adam"].replace("self.first = nn", "self._first = nn").replace("self.first", "self._first")
FUNCTIONAL = """
def loss_fn(p, x, y):
    z = x @ p["net"]["w"] + p["net"]["b"] + mx.stop_gradient(x @ p["off"]); seen(z)
    return ((z - y) ** 2).mean()
params = {"net": {"w": X[:4, :1], "b": mx.zeros((1,))}, "off": X[4:8, :1]}
learn, opt = mx.value_and_grad(loss_fn), optim.Adam(1e-2)
for i in range(8):
    loss, grads = learn(params, X, Y)
    params = opt.apply_gradients(grads, params)
    mx.eval(params, opt.state)
last = grads["net"]["b"].item()
"""


def test_a_layer_that_mlx_does_not_see_is_found_in_a_step_that_was_opened(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    for program, found in ((HIDDEN, True), (PROGRAMS["adam"], False)):
        file.write_text(HEAD + QUIET + program)
        shown = " ".join(said("on", file, "continue", "health"))
        assert ("_first is used as a weight" in shown) == found, shown


def test_what_an_update_made_has_the_gradient_that_it_was_made_with(tmp_path: Path) -> None:
    """In a dict that each step makes anew; and where none flows, that is said of the weight as the pass took it."""
    file = tmp_path / "train.py"
    file.write_text(HEAD + QUIET + FUNCTIONAL)
    asked = ("p grad(params['net']['b']).item() - last", "why grad(params['off'])", "p grad(params['off'])")
    there, cut, none = [" ".join(said("on", file, "continue", line)) for line in asked]
    assert there.endswith("= 0.0"), there
    assert "The way ends at" in cut, cut
    assert "cut at" in none, none


def test_where_nan_was_born_is_found_though_no_loss_was_ever_evaluated(tmp_path: Path) -> None:
    """Health is asked first: it opens the last steps, and sees there that it has to go further back."""
    file = tmp_path / "train.py"
    born = PROGRAMS["adam"].replace("    if i % 5 == 0: print(i, loss.item())\n", "")
    file.write_text(HEAD + QUIET + born.replace("learn(model, X, Y)", "learn(model, X / (0 if i == 3 else 1), Y)"))
    for line in ("health", "why nan"):
        shown = " ".join(said("on", file, "continue", line))
        assert re.search(r"4#\d+, X / 0 ", shown), shown


SCHEDULED = PROGRAMS["adam"].replace("optim.Adam(1e-2)", "optim.Adam(optim.step_decay(0.5, 0.5, 2))")
SCHEDULED = SCHEDULED.replace(
    "    mx.eval(",
    "    count._kept['n'] = count._kept['n'] + 1\n    mx.eval(count.n); mx.eval(",
).replace(
    "for i in",
    """
class Count:
    def __init__(self): self._kept = {"n": mx.array(0.0)}
    @property
    def n(self): return self._kept["n"]
count = Count()
for i in""",
)


@pytest.mark.parametrize("native", ["on", "off"])
def test_a_property_says_what_its_object_holds_there(native: str, tmp_path: Path) -> None:
    """What a path was called once, in another step, is not what the property gives here."""
    file = tmp_path / "train.py"
    file.write_text(HEAD + QUIET + SCHEDULED)
    asked = "p (i, opt.step.item(), opt.learning_rate.item(), opt.state['step'].item(), count.n.item(), count.n.shape)"
    shown = said(native, file, *[line for k in (3, 4, 6) for line in (f"goto step {k}", asked)])
    told = [line for line in shown if line.startswith("(")]
    assert told == [f"({k}, {k}, {0.5 ** (1 + (k - 1) // 2)}, {k}, {k}.0, ())" for k in (2, 3, 5)]


EVALUATED = (
    PROGRAMS["adam"]
    + """
    if i % 3 == 1:
        model.eval(); half = X * 0.5; score = model(half); more = score + 1; model.train()
"""
)
EVALUATED = EVALUATED.replace("z = mx.tanh(self.first(x))", "z = mx.tanh(self.first(x)) * (2 if self.training else 3)")


@pytest.mark.parametrize("native", ["on", "off"])
def test_whether_a_model_was_training_is_what_it_was_there(native: str, tmp_path: Path) -> None:
    """An expression that calls the model then goes the way that it went then."""
    file = tmp_path / "train.py"
    file.write_text(HEAD + QUIET + EVALUATED)
    modes = "p (i, model.training, model.first.training)"
    same = "p ('the same', mx.array_equal(model(half), score).item())"
    lines = ("goto step 5", "until half", modes, "goto step 6", modes, "goto step 5", modes, "until half", modes)
    shown = said(native, file, *lines, "until more", same, "goto step 3 update", modes)
    told = [line.rpartition(" = ")[2] for line in shown if re.search(r"\(\d, (True|False)|'the same', ", line)]
    training, not_training = "True, True)", "False, False)"
    assert told == [
        f"(4, {not_training}", f"(5, {training}", f"(4, {training}", f"(4, {not_training}", "('the same', True)",
        f"(2, {training}",
    ]  # fmt: skip
