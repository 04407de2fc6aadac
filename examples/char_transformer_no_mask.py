"""A small transformer on characters whose loss is too good to be true: its attention has no causal mask.

Every place may look at the character that it is asked to predict, one place further on. The loss falls
below 0.1 nats per character; an honest model of this size and training reaches about 1.9.
"""

import torch
from torch import nn
from torch.nn import functional as F

import geartrain as gt


class Block(nn.Module):
    def __init__(self, width, num_heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden):
        normed = self.norm1(hidden)
        attended, _ = self.attention(normed, normed, normed, need_weights=False)
        hidden = hidden + attended
        return hidden + self.mlp(self.norm2(hidden))


class CharacterTransformer(nn.Module):
    def __init__(self, num_characters, length, width=32):
        super().__init__()
        self.characters = nn.Embedding(num_characters, width)
        self.places = nn.Embedding(length, width)
        self.block = Block(width, num_heads=2)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_characters)

    def forward(self, characters):
        places = torch.arange(characters.shape[1], device=characters.device)
        hidden = self.block(self.characters(characters) + self.places(places))
        return self.head(self.norm(hidden))


def character_loss(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def accuracy(logits, targets):
    return (logits.argmax(dim=-1) == targets).float().mean()


def make_run(seed: int = 0) -> gt.Run:
    torch.manual_seed(seed)
    text = gt.datasets.text.load(length=32)
    model = CharacterTransformer(num_characters=len(text.classes), length=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    return gt.Run(
        model,
        character_loss,
        optimizer,
        train=text.train,
        validation=text.validation,
        epochs=5,
        batch_size=32,
        metric=accuracy,
        seed=seed,
        name="text, transformer",
    )


if __name__ == "__main__":
    print(gt.diagnose(make_run()))
