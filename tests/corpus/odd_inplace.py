"""Odd programs: code that changes arrays in place, and names that stand for the same array."""

from __future__ import annotations

import copy

import mlx.core as mx

from tests.corpus.checks import Call
from tests.corpus.programs import built, called, differentiated


@differentiated((4, 3))
def augmented(x):
    y = x * 2
    y += x
    y *= y
    y -= 1
    y /= 3
    return (y * x).sum()


@differentiated((4, 3))
def augmented_in_every_form(x):
    y = x * 3
    y **= 2
    y %= 4
    y += 0.5
    y //= 0.25
    z = mx.abs(x) + 1
    z @= x.T
    whole = mx.arange(4)
    whole <<= 1
    whole |= 1
    whole &= 5
    whole ^= 2
    whole >>= 1
    return (y * x).sum() + (z * whole).sum()


@differentiated((4, 3))
def parameter_itself(x):
    x += 1
    x *= x
    return (x * x).sum()


@differentiated((4, 3), (3,))
def parameter_element(x, b):
    x[1, 2] = b[0]
    x[0] += b
    b[1:] *= 2
    return (x * b).sum()


@differentiated((4, 3))
def alias_sees_the_change(x):
    y = x * 2
    alias = y
    alias += 1
    y *= x
    return (alias * y).sum()


@differentiated((4, 3))
def view_does_not_see_the_change(x):
    y = x * 2
    row = y[0]
    y[0] = x[1]
    row += 1
    return (row * y).sum()


@differentiated((4, 3))
def assigned(x):
    y = mx.zeros((4, 3))
    y[0] = x[1]
    y[1:3] = x[:2] * 2
    y[:, 1] = x[:, 0]
    y[3] = 5.0
    return (y * x).sum()


@differentiated((4, 3))
def assigned_by_index_array(x):
    y = x * 1
    rows = mx.array([0, 2])
    y[rows] = x[mx.array([1, 3])]
    y[rows] += 1
    return (y**2).sum()


@differentiated((4, 3))
def assigned_twice_to_one_place(x):
    y = x + 0
    y[mx.array([1, 1, 1])] = x[1:]
    y[mx.array([0, 0]), mx.array([2, 2])] += x[0, :2]
    return (y * y).sum()


@differentiated((4, 3))
def assigned_by_mask(x):
    y = x * 2
    y[mx.stop_gradient(y > 0)] = 0.5
    y[mx.stop_gradient(x) < -0.5] = -1.0
    return (y * x).sum()


@differentiated((4, 3))
def assigned_by_mask_with_a_gradient(x):
    y = x * 2
    y[y > 0] = 0.5
    return (y * x).sum()


@differentiated((4, 3), (3,))
def assigned_by_row_mask(x, b):
    y = x * 2
    y[mx.array([True, False, False, True])] = b
    return (y * y).sum()


@differentiated((4, 5, 3))
def assigned_by_everything_at_once(x):
    y = mx.zeros((4, 5, 3))
    y[...] = x
    y[1, ..., 0] = x[0, :, 1]
    y[::2, 1:4, ::-1] = x[1:3, :3]
    y[:, mx.array([0, 4])] = x[:, 1:2]
    y[-1, -1] *= x[0, 0]
    y[None, 2] -= 1.0
    return (y * x).sum()


@differentiated((4, 3))
def assigned_with_broadcasting(x):
    y = mx.ones((4, 3))
    y[1:] = x[0]
    y[:, 0] = x[:1, 0]
    y[2] = mx.array(2.0) * x[0, 0]
    return (y * x).sum()


@differentiated((4, 3))
def assigned_with_another_dtype(x):
    y = mx.zeros((4, 3), dtype=mx.float16)
    y[0] = x[0]
    z = mx.zeros((3,), dtype=mx.int32)
    z[1] = 7
    return (y.astype(mx.float32) * x).sum() + (x[0] * z).sum()


@differentiated((4, 3))
def assigned_from_itself(x):
    y = x * 2
    y[1:] = y[:-1]
    y[0] = y[0] * y[1]
    y[:] = y[::-1]
    return (y * x).sum()


@differentiated((6,))
def element_by_element(x):
    y = mx.zeros((6,))
    for at in range(6):
        y[at] = x[at] * (y[at - 1] if at else 1.0)
    return (y * x).sum()


@differentiated((4, 3))
def functional_updates(x):
    y = x.at[mx.array([0, 0, 1])].add(x[:3])
    z = y.at[1].multiply(2.0)
    z = z.at[0].maximum(x[2])
    return (z * y).sum()


@differentiated((4, 3))
def functional_updates_of_every_sort(x):
    y = x.at[:2].subtract(x[2:]).at[1, 2].divide(3.0).at[mx.array([3, 3])].minimum(x[:2])
    mid = x.at[..., 0]
    return (mid.add(1.0) * y).sum() + x.at[0].add(y[0] * x[0]).sum()


@differentiated((4, 3))
def copies(x):
    y = copy.copy(x)
    z = copy.deepcopy(x * 2)
    y += 1
    return (y * z * x).sum()


@differentiated((4, 3))
def copies_of_trees(x):
    tree = {"a": [x * 2, (x, x + 1)], "b": x}
    shallow = dict(tree)
    deep = copy.deepcopy(tree)
    deep["a"][0] += 1
    shallow["b"] = shallow["b"] * 3
    tree["a"][0] *= 2
    return (deep["a"][0] * shallow["b"]).sum() + (tree["a"][0] * deep["b"]).sum() + deep["a"][1][1].sum()


@differentiated((4, 3))
def list_that_holds_one_array_three_times(x):
    held = [x * 2] * 3
    held[0] += 1
    held[1] = held[1] * x
    held[2] -= x
    return sum(array.sum() for array in held) + (held[0] * held[2]).sum()


@differentiated((4, 3))
def swapped_names(x):
    a, b = x * 2, mx.sin(x)
    a, b = b, a
    a += b
    a, b = b, a * b
    return (a - b).sum()


def _change(array, by):
    array += by
    array[0] = 0.0


@differentiated((4, 3))
def changed_by_a_function(x):
    y = x * 2
    before = y * 1
    _change(y, x)
    _change(by=before, array=before)
    return (y * before).sum()


@differentiated((4, 3))
def attribute_changed(x):
    class Holder:
        def __init__(self):
            self.state = x * 0

        def step(self, by):
            self.state += by
            self.state[1] *= 2
            return self.state

    holder = Holder()
    return sum((holder.step(x * number) * x).sum() for number in range(3)) + holder.state.mean()


@differentiated((5, 3))
def buffer_filled_step_by_step(x):
    buffer = mx.zeros((8, 3))
    outputs = []
    for at, row in enumerate(x):
        buffer[at] = mx.tanh(row)
        outputs.append(buffer[: at + 1].sum(axis=0) * row)
    buffer[:2], buffer[2:4] = buffer[2:4], buffer[:2]
    return mx.stack(outputs).sum() + (buffer * buffer).sum()


@differentiated((1, 2, 3, 4))
def key_value_cache(x):
    keys = mx.zeros((1, 2, 8, 4))
    values = mx.zeros((1, 2, 8, 4))
    total = mx.array(0.0)
    for at in range(3):
        step = x[:, :, at : at + 1]
        keys[..., at : at + 1, :] = mx.tanh(step)
        values[..., at : at + 1, :] = step * 2
        seen = at + 1
        total += mx.fast.scaled_dot_product_attention(step, keys[..., :seen, :], values[..., :seen, :], scale=0.5).sum()
    return total


@differentiated((5, 3))
def rotating_cache(x):
    ring = mx.zeros((3, 3))
    total = mx.array(0.0)
    for at, row in enumerate(x):
        ring[at % 3] = row * 2
        if at % 2:
            ring = mx.roll(ring, 1, axis=0)
            ring[0] += row
        total = total + (ring * row).sum()
    return total


@differentiated((4, 3))
def numerically_unstable_accumulation(x):
    total = mx.zeros((3,))
    for row in x:
        total += row * 1e8
        total -= row * 1e8
        total += row
    return (total * x).sum()


@differentiated((4, 3))
def in_place_after_the_value_was_used(x):
    y = x * 2
    used = mx.sin(y)
    squared = y * y
    y += 100
    return (used * squared).sum() + (y * x).sum()


@differentiated((4, 3))
def in_place_across_an_evaluation(x):
    y = x * 2
    mx.eval(y)
    y += x
    mx.eval(y)
    y[0] = x[3]
    float(y[0, 0])
    y *= y
    return y.sum()


@differentiated((3, 4), (4,))
def loop_of_a_linear_solver(x, b):
    a = x.T @ x + mx.eye(4)
    guess = mx.zeros((4,))
    for _ in range(10):
        rest = b - a @ guess
        guess += 0.1 * rest
    return (guess * guess).sum()


@differentiated((4, 4))
def triangle_solved_in_place(x):
    a = mx.tril(x) + 4 * mx.eye(4)
    y = x[0] + 0
    for row in range(4):
        for column in range(row):
            y[row] -= a[row, column] * y[column]
        y[row] /= a[row, row]
    return (y * y).sum()


@built
def world_outside_changed():
    counts = {"calls": 0, "sum": mx.zeros((3,))}
    history = []

    def loss(x):
        counts["calls"] += 1
        counts["sum"] += mx.stop_gradient(x.sum(axis=0))
        history.append(x[0])
        return (x * x).sum() + (counts["sum"] * x).sum()

    x = mx.arange(12.0).reshape(4, 3)
    return Call(loss, [x], 0, after=lambda: (counts["calls"], len(history), counts["sum"]))


@built
def argument_changed_in_place():
    batch = {"x": mx.arange(6.0), "mask": mx.ones((6,))}
    x = mx.arange(6.0) / 7

    def loss(w, batch):
        batch["mask"][2] = 0.0
        batch["x"] *= 2
        return (w * batch["x"] * batch["mask"]).sum()

    return Call(loss, [x, batch], 0, after=lambda: batch)


@built
def differentiated_argument_changed_in_place():
    x = mx.arange(6.0) / 7

    def run():
        value, grad = mx.value_and_grad(_spoil)(x)
        return value, grad, x * 1

    return Call(run, after=lambda: x)


def _spoil(x):
    x *= 3
    x[0] = 1.0
    return (x * x).sum()


@built
def weights_updated_by_hand():
    w = mx.arange(6.0).reshape(3, 2) / 10
    alias = w

    def train(x):
        nonlocal w
        losses = []
        for _ in range(3):
            value, grad = mx.value_and_grad(lambda p: ((x @ p) ** 2).mean())(w)
            w -= 0.1 * grad
            losses.append(value)
        return losses, alias

    return Call(train, [mx.ones((4, 3))], after=lambda: (w, alias, w is alias))


@called((4, 3))
def in_place_outside_of_any_gradient(x):
    seen = [x * 1]
    x += 1
    seen.append(x * 1)
    x[1:3] = x[:2]
    seen.append(x)
    x[0] = 7
    return seen, x[x.shape[0] - 1]


@called((4, 3))
def deleted_and_reused_names(x):
    kept = []
    for number in range(50):
        y = x * number
        z = y + 1
        del y
        y = z[0]
        kept.append(y.sum())
        del z
    return mx.stack(kept)


@called((3, 3))
def objects_that_die_at_once(x):
    for number in range(200):
        (x * number + x) @ x
        x = x + (x * 0.001)[::-1]
    return x


@called((3,))
def arguments_exchanged_in_a_loss(x):
    """What its containers hold afterwards: the program's object where it is the same tensor for MLX, else a new one."""
    kept = []

    def loss(tree, parts):
        tree["w"] = tree["w"].astype(mx.float32)
        tree["v"] = mx.tanh(tree["v"])
        parts[0], parts[1] = parts[0].reshape(3), parts[2]
        kept.extend([tree["v"], parts[1]])
        return (tree["w"] * tree["v"] * parts[0] + parts[1]).sum()

    tree, parts = {"w": x * 1, "v": x + 1}, [x + 2, x + 3, x + 4]
    before = [tree["w"], tree["v"], *parts]
    results = mx.value_and_grad(loss)(tree, parts)
    after = [tree["w"], tree["v"], *parts]
    kept[0] += 5
    told = [[a is b for a, b in zip(after, before)], [any(a is one for one in kept) for a in after]]
    return results, after, kept, str(told)
