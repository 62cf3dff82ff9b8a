"""A small transformer that learns to continue a poem, character by character.

Two blocks of causal self-attention, trained for a few seconds with AdamW. It is large enough that results are
not shown unasked: step through it, and print what you want to see.

    goto blocks.0.attention        the first op of an attention
    p scores[0, 0, :4, :4]         the scores of four positions on four
    until softmax                  and so on
"""

import math

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

TEXT = """Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date;
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance or nature's changing course untrimm'd;
But thy eternal summer shall not fade,
Nor lose possession of that fair thou ow'st;
Nor shall death brag thou wander'st in his shade,
When in eternal lines to time thou grow'st:
So long as men can breathe or eyes can see,
So long lives this, and this gives life to thee.
"""

CHARACTERS = sorted(set(TEXT))
CODES = {character: code for code, character in enumerate(CHARACTERS)}


class Attention(nn.Module):
    """Causal self-attention with several heads, written out."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def split(self, x):
        batch, length, width = x.shape
        return x.reshape(batch, length, self.heads, width // self.heads).transpose(0, 2, 1, 3)

    def __call__(self, x, mask):
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1])
        weights = mx.softmax(scores + mask, axis=-1)
        mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        return self.out(mixed)


class Block(nn.Module):
    """Attention and a feed-forward net, each around a residual connection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def __call__(self, x, mask):
        x = x + self.attention(self.norm1(x), mask)
        hidden = nn.gelu(self.up(self.norm2(x)))
        x = x + self.down(hidden)
        return x


class Transformer(nn.Module):
    def __init__(self, characters: int, width: int = 32, heads: int = 4, blocks: int = 2, length: int = 32):
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.position = nn.Embedding(length, width)
        self.blocks = [Block(width, heads) for _ in range(blocks)]
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters)

    def __call__(self, tokens):
        length = tokens.shape[1]
        x = self.embedding(tokens) + self.position(mx.arange(length))
        mask = nn.MultiHeadAttention.create_additive_causal_mask(length)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))


def batches(codes, length: int, size: int, count: int):
    """Random pieces of the text, with the same pieces moved on by one as targets."""
    for _ in range(count):
        starts = mx.random.randint(0, codes.shape[0] - length - 1, (size, 1))
        places = starts + mx.arange(length)
        yield codes[places], codes[places + 1]


def main(steps: int = 60):
    mx.random.seed(1)
    codes = mx.array([CODES[character] for character in TEXT])
    model = Transformer(len(CHARACTERS))
    optimizer = optim.AdamW(learning_rate=3e-3)

    def loss_fn(tokens, targets):
        logits = model(tokens)
        return nn.losses.cross_entropy(logits, targets, reduction="mean")

    step = nn.value_and_grad(model, loss_fn)
    for number, (tokens, targets) in enumerate(batches(codes, length=32, size=8, count=steps), 1):
        loss, grads = step(tokens, targets)
        optimizer.update(model, grads)
        mx.eval(model.parameters(), optimizer.state, loss)
        if number % 20 == 0:
            print(f"step {number}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
