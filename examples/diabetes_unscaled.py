"""Regression on the diabetes table as it comes: features in their own units, targets from 25 to 346.

Cholesterol near 190 stands beside a cholesterol ratio near 4, and the network starts out predicting 0. A step of
3e-6 jumps about, 1e-3 ends in NaN, and at 1e-6 the fit explains less than a fifth of the variance. With inputs
and targets standardised, the same network takes steps of 1e-2 and explains more than half.
"""

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.nn import functional as F

import geartrain as gt


class Regressor(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)
        )

    def forward(self, features):
        return self.layers(features)


def load_patients():
    features, progression = load_diabetes(return_X_y=True, scaled=False)
    features = torch.tensor(features, dtype=torch.float32)
    progression = torch.tensor(progression, dtype=torch.float32).unsqueeze(1)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    train, validation = order[:330], order[330:]
    return (features[train], progression[train]), (features[validation], progression[validation])


def explained_variance(predicted, progression):
    return 1 - F.mse_loss(predicted, progression) / progression.var(unbiased=False)


def make_run(seed: int = 0) -> gt.Run:
    torch.manual_seed(seed)
    train, validation = load_patients()
    model = Regressor()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    return gt.Run(
        model,
        F.mse_loss,
        optimizer,
        train=train,
        validation=validation,
        epochs=40,
        batch_size=32,
        metric=explained_variance,
        seed=seed,
        name="diabetes, unscaled",
    )


if __name__ == "__main__":
    print(gt.diagnose(make_run()))
