"""A small network with everything that depends on chance or keeps a state, for tests of the loop."""

# As text, because the same runs in processes of their own.
SETUP = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.4), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x):
        return self.body(x)

generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(50, 6, generator=generator), torch.randn(50, 3, generator=generator)

def mse(model, x, y):
    return F.mse_loss(model(x), y)
"""
scope = {"__name__": __name__}
exec(SETUP, scope)
Net, X, Y, mse = scope["Net"], scope["X"], scope["Y"], scope["mse"]


class Stopping:
    """An objective that is the same run whenever it stops: only what it does counts, and not its counter."""

    def __init__(self, at):
        self.left = [at]

    def __call__(self, model, x, y):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise KeyboardInterrupt
        return mse(model, x, y)
