"""Layers of several ops and losses, each to be explained as a whole."""

import mlx.core as mx
import mlx.nn as nn

mx.random.seed(0)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.attention = nn.MultiHeadAttention(4, 2)
        self.gru = nn.GRU(4, 2)
        self.lstm = nn.LSTM(4, 2)
        self.conv = nn.Conv2d(1, 2, 2)
        self.pool = nn.MaxPool2d(2, 2)
        self.act = nn.GELU()

    def __call__(self, tokens):
        h = self.embed(tokens)
        seen = self.attention(h, h, h)
        a = self.gru(seen)
        b, _ = self.lstm(seen)
        picture = self.pool(self.conv(seen.reshape(1, 3, 4, 1)[:, :, :3]))
        return self.act(a + b), picture


model = Small()
tokens = mx.array([[1, 4, 1]])
wanted = mx.array([[[0.5, -0.25], [0.0, 1.0], [-0.5, 0.75]]])


def loss_fn(model, tokens):
    out, picture = model(tokens)
    return nn.losses.huber_loss(out, wanted, delta=0.5, reduction="mean") + (picture * picture).mean()


loss, grads = nn.value_and_grad(model, loss_fn)(model, tokens)
mx.eval(loss, grads)
print(loss.item())
