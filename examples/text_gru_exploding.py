"""A GRU on characters, in a hand-written training loop, whose gradients explode over 128 steps of text.

The recurrent weights start far too large, so that a gradient grows at every character on its way back, and
nothing clips it: its norm reaches thousands, and Adam, which remembers that for long, hardly moves. The run
stays near 3 nats per character; with the gradient clipped to norm 1 it passes 2.4.
"""

import torch
from torch import nn
from torch.nn import functional as F

import geartrain as gt


class CharacterGRU(nn.Module):
    def __init__(self, num_characters, num_units=64):
        super().__init__()
        self.embedding = nn.Embedding(num_characters, 32)
        self.gru = nn.GRU(32, num_units, batch_first=True)
        self.head = nn.Linear(num_units, num_characters)
        nn.init.normal_(self.gru.weight_hh_l0, std=0.48)

    def forward(self, characters):
        states, _ = self.gru(self.embedding(characters))
        return self.head(states)


def character_loss(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make_run(seed: int = 0) -> gt.Run:
    torch.manual_seed(seed)
    text = gt.datasets.text.load(length=128)
    model = CharacterGRU(num_characters=len(text.classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def step(batch):
        characters, targets = batch
        model.train()
        optimizer.zero_grad()
        loss = character_loss(model(characters), targets)
        loss.backward()
        optimizer.step()
        return loss

    def evaluate():
        model.eval()
        with torch.no_grad():
            characters, targets = text.validation
            return character_loss(model(characters), targets).item()

    return gt.Run(
        model,
        character_loss,
        optimizer,
        train=text.train,
        validation=text.validation,
        step=step,
        evaluate=evaluate,
        epochs=3,
        batch_size=16,
        seed=seed,
        name="text, GRU",
    )


if __name__ == "__main__":
    print(gt.diagnose(make_run()))
