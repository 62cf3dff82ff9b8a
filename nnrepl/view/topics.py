"""Topics: what `help` tells about things that are more than one command."""

from __future__ import annotations

from nnrepl.classes import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """Something to read about.

    Attributes:
        title: One line.
        text: The manual.
        groups: Groups of commands that belong to it.
        commands: Further commands that do.
    """

    title: str
    text: str
    groups: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


TOPICS: dict[str, Topic] = {
    "motions": Topic(
        "going forwards, backwards and anywhere",
        """\
The cursor stands between ops and points at the one that comes next. Forwards and backwards cost the same: the tape is
recorded, and going back runs nothing again. A pass made by value_and_grad is recorded to its end before the first stop
in it, so you can go to its backward pass at once (goto backward). After the last recorded op the program itself runs
on. Enter repeats a motion.
A training step is one turn of the program's loop: next step, goto step 30, until loss < 2.5; info steps lists them.""",
        ("forwards", "backwards", "jumps"),
    ),
    "places": Topic(
        "how to write a place: an op, a line, a value, a module, a phase",
        """\
  #12, 30#12       an op by its number in the step where you stand, in step 30; setup#3
  train.py:31      a line and what its calls make; 31 in the file where you stand, cell 3:2 in a notebook
  loss_fn, Net     a function, a class; Net.__call__, train.py:loss_fn
  blocks.0         a module, blocks.*.attention with a wildcard, G.layers.0 from the variable that holds its model
  z1               the op that makes a value; grad(z1) the one that makes its gradient
  matmul           an operation of MLX, and where it is differentiated
  step 30, pass 7  where it begins; cell 3 of a notebook, prompt 3 what was typed; turn 500 of a loop that takes no
                   gradients by MLX, as its evaluations tell
  setup, forward, backward, update, start, end
  loss < 0.5       where this becomes true; matmul if z1.max() > 3 only where it is
One after the other, each within the one before: step 30 blocks.1 softmax, backward matmul. At step 30 backward all of
its forward pass is made (p blocks.1.weights), at step 30 update all its gradients (info gradients). A line, a
function, a class and a module are entered: their first op counts, and the first that takes their gradients. All
commands that take a place read the same words. A line that makes no op is stopped at before the op that comes next.""",
        (),
        ("goto", "until", "break", "tbreak", "clear", "list", "graph", "explain", "why", "into"),
    ),
    "names": Topic(
        "what a name means, and how to get at other versions",
        """\
A name means what the program's variable holds where the cursor stands: in this call, at this moment. First come the
variables of the function, with its closure, then those of the functions that called it (opt, i, model), outwards.
What is not made yet is said to be that, with the op that makes it; an older one is shown under its own address only.
  #12, #12.1       the result of an op, its second output
  z1@12, z1@3#12   the version that op #12 made, in this step or in step 3
  grad(z1), ∂L/∂z1 the gradient of the loss with respect to it
  layers.0.weight  a parameter of the model; of several models by the variable that holds it: critic.layers.0.weight
  layers.1.weights a variable of the call of a module in this step, once it is made: goto step 30 backward shows all
  loss             what the pass differentiates, whatever the program calls it
Everything else is Python, in the function where the cursor stands.""",
        (),
        ("print", "what", "grad", "display"),
    ),
    "python": Topic(
        "when a line is a command, and when it is Python",
        """\
Syntax decides. A bare command word is a command: s, list, n. A command word with what belongs to it is a command: p z1,
goto #12. Assignments and operators are Python: n = 5, w @ x, p[0]. Where both would do, p (a)[0], p -x, n (2), it is
the command, unless the word is a name of the program.
! always means Python. Anything else is Python, and an open bracket or a block goes on in the next line; an empty line
ends a block, two end a class, or a function that has not returned.
At (nnrepl 3), where the program is over, Python is its next cell: recorded, stepped, undone as the lines of a script.
At (nnrepl), in the past or inside of a call, an expression is a look: nothing is recorded, no random state moves.
There an assignment to a tensor (w = w * 2), or a line that changes something of the program's, makes a timeline.""",
        (),
        ("print", "pp", "debug", "undo", "export"),
    ),
    "breakpoints": Topic(
        "stopping where something happens",
        """\
Breakpoints stop at a place (help places), watches where a value changes, catches where a kind of thing happens. All of
them work forwards (continue) and backwards (reverse-continue). A condition after a comma is evaluated only where the
op can match: break matmul, z1.max() > 10. A place that nothing in the program can be is refused.""",
        ("stops",),
        ("continue", "reverse-continue"),
    ),
    "changes": Topic(
        "changing values, and going on from there",
        """\
An assignment to a name of the tape is a change: z1 = z1 * 2, z1[0, 2] = 0.5. It is an op of the tape: what follows is
computed from it, gradients flow through it, and only what depends on it is evaluated again. It is the program with that
line in it, once: in this call of this step, before the line at which you stand, and never in later calls. Each change
begins a timeline; the old one stays, and undo leads back.
  k = k * 2              gives the name k another tensor: cache["k"], and what else holds the old one, keeps it
  k *= 2, k[0] = 1       change the tensor itself: whoever holds this very tensor sees it; copies stay what they were
  layer.weight = ...     a parameter changes where it enters its step, so that all of the step sees it
  opt.learning_rate = 0.5, model.eval(), kept.append(1)
                         what is no tensor changes too, from here on; under set_trace it acts at once, on no timeline
  h = h * 2; k = k + 1   several changes: each is a timeline of its own
Where the program has to run again it is held against the tape, op by op; what it printed is not printed again.
Ctrl-C at any moment of that leaves everything as it was before the line.""",
        ("changing",),
    ),
    "inside": Topic(
        "what happens inside of a vmap, a jvp, a grad in a loss",
        """\
MLX runs such a call by itself, as one op; what happens inside lies on the tape before that op. step goes in, next goes
over it, finish leads out; breakpoints, list, ops, explain, why and where work there as anywhere.
  in a vmap        values are those of all samples, along an axis that p and what name
  in a grad, vjp   the backward pass of its own: grad(h), ∂u/∂h, is how what it differentiates (u) changes with h
  in a jvp         after the ops the tangents: how fast each value changes in the direction that the program gave
How the loss of the pass around it depends on what is inside is not known. A change inside is a line of the function
there, also of what goes in and comes out; what MLX works out by itself after it, a backward pass or tangents, cannot be
changed. verify holds what happened inside against what the call returned.""",
        (),
        ("step", "next", "finish", "verify", "what"),
    ),
    "tensors": Topic(
        "how tensors are shown",
        """\
Small tensors are shown whole, large ones by their corners, with shape, dtype and a summary; of a batch, the first and
the last matrix. Nothing is evaluated but what is shown, and what it depends on.
  p/4f x           four decimals; p/2e scientific, p/3g the shorter one, p/d rounded
  p/x, p/t         the bits, in hexadecimal or binary
  p -r [0,1] x     marks what lies in a range, and counts it
  p -m x           a heatmap
Results of a step are shown if they are small (config peek). In lists: ● evaluated, blank not yet, ○ dropped, ✎ an edit,
~ stale, ✗ failed.""",
        (),
        ("print", "heatmap", "hist", "stats", "display", "what"),
    ),
    "keys": Topic(
        "the keys of the prompt",
        """\
  F8, F11          step             F7, Shift-F11    reverse-step
  F9, F10          next             F6, Shift-F10    reverse-next
  F5               continue         Shift-F5         reverse-continue
  Tab              complete         Right            take the grey suggestion
  Up, Down         what was typed before, and begins so; Ctrl-R searches it
  Ctrl-L           the last answer again, for the width that the terminal has now
  Alt-Enter        a further line   Ctrl-X Ctrl-E    the line in an editor
  F1               help with the word before the cursor; else with where one stands
  F4               emacs or vi keys
  Ctrl-C           clears the line; while the program runs, stops it at its next op
  Ctrl-D           leaves
In the full screen (tui) also
  F2, Shift-Tab    the next pane; Esc leads back to the prompt, and so does typing
  arrows, PageUp   move in the pane; Enter looks inside of what is marked, Space goes there
  b, t             a breakpoint there (again: none), until there
  F3               tensors as numbers or as pictures
  mouse            a click does what Space or b would, on a ? it tells what the word means; the wheel moves
                   what is under it
What a key or a click did is shown as the command that does it.""",
        (),
        ("tui", "config"),
    ),
    "files": Topic(
        "the files that nnrepl reads and writes",
        """\
  config           settings, one a line (theme light); config save writes it, config shows where it lies
  startup          beside it: commands to begin each session with
Under XDG_STATE_HOME, or ~/.local/state/nnrepl, for nobody else to read: what was typed, the breakpoints and how far
lessons have come, for each program. export writes what was shown, save the tape.""",
        (),
        ("config", "export", "source", "save", "load"),
    ),
}

ALIASES = {
    "break points": "breakpoints", "stops": "breakpoints", "watchpoints": "breakpoints", "catching": "breakpoints",
    "expressions": "names", "values": "names", "gradients": "names", "versions": "names", "motion": "motions",
    "moving": "motions", "edits": "changes", "editing": "changes", "timelines": "changes",
    "formats": "tensors", "tensor": "tensors", "looking": "tensors", "shortcuts": "keys", "settings": "files",
    "history": "files", "configuration": "files", "syntax": "python", "vmap": "inside", "jvp": "inside",
    "nested": "inside", "samples": "inside",
}  # fmt: skip
"""Other words for a topic, where no command has that name."""

GROUPS = ("forwards", "backwards", "jumps", "stops", "looking", "changing", "understanding", "general")
"""The order in which `help` lists the groups of commands; others come before the last."""
