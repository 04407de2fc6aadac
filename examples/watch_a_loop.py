"""A hand-written loop with one line around it: what a classifier of digits does inside."""

import torch
from torch import nn
from torch.nn import functional as F

import geartrain as gt


def train(epochs: int = 20, lr: float = 0.1, seed: int = 0):
    torch.manual_seed(seed)
    inputs, targets = gt.datasets.digits.load().train
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    with gt.watch(model, optimizer, name="digits") as monitor:
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(64):
                optimizer.zero_grad()
                monitor.loss(F.cross_entropy(model(inputs[rows]), targets[rows])).backward()
                optimizer.step()
    return monitor, (inputs, targets)


if __name__ == "__main__":
    monitor, data = train()
    print(monitor)
    print(monitor.noise_scale())
    print(monitor.step_length_gauge())
    print(monitor.diagnose(F.cross_entropy, data, budget="20s"))
