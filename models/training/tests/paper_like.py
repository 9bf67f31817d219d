"""The paper's nets as its own code nests them, written from the description in the reference.

Only for the tests of the conversion: modules in that code's order (bridge before down and up path,
convolution paths before shortcuts), one activation-first unit per convolution, every part of the
multitask net registered twice. Shares no code with `triage_models.nets`.
"""

import torch
from torch import nn


class Unit(nn.Module):
    def __init__(self, a, b, size, bias=False):
        super().__init__()
        self.bn = nn.BatchNorm2d(a)
        self.activation = nn.ReLU()
        self.layer = nn.Conv2d(a, b, size, padding=size // 2, bias=bias)

    def forward(self, x):
        return self.layer(self.activation(self.bn(x)))


class Residual(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.conv_path = nn.Sequential(Unit(a, b, 3), Unit(b, b, 3))
        self.adjust = nn.Conv2d(a, b, 1, bias=False) if a != b else nn.Identity()

    def forward(self, x):
        return self.conv_path(x) + self.adjust(x)


def chain(*widths):
    return nn.Sequential(*(Residual(a, b) for a, b in zip(widths, widths[1:])))


class Pyramid(nn.Module):
    def __init__(self, top):
        super().__init__()
        w = [8, 16, 32, 64, 128, 256]
        self.bridge = chain(256, 512, 256)
        self.pool = nn.ModuleList(nn.MaxPool2d(2, ceil_mode=True) for _ in w)
        self.down_path = nn.ModuleList([chain(8, 8, 8)] + [chain(n // 2, n, n) for n in w[1:]])
        self.up_path = nn.ModuleList([top] + [chain(n, n, n // 2) for n in w[1:]])

    def forward(self, x):
        kept = []
        for level, pool in zip(self.down_path, self.pool):
            x = level(x)
            kept.append(x)
            x = pool(x)
        x = self.bridge(x)
        for level in list(self.up_path)[::-1]:
            left = kept.pop()
            x = level(left + nn.functional.interpolate(x, size=left.shape[-2:], mode="bilinear", align_corners=False))
        return x


def paper_lungs():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), Pyramid(chain(8, 8, 8)), Unit(8, 1, 1))


class Wrapped(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network


class PaperMultitask(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), Pyramid(chain(8, 8)))
        self.sgm_head = nn.Sequential(Residual(8, 8), Unit(8, 1, 1))
        self.cls_head = nn.Sequential(
            nn.Identity(), nn.Dropout(), nn.Linear(4680, 1024), nn.ReLU(), nn.Dropout(), nn.Linear(1024, 1, bias=False)
        )
        self.model = nn.Sequential(
            Wrapped(self.backbone), nn.ModuleList([Wrapped(self.sgm_head), self.cls_head])
        )


def randomize(net, seed):
    """Weights of sensible size and batch-norm statistics that are not the defaults."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like, low, high):
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
                module.weight.copy_(uniform(module.weight, 0.5, 1.5))
                module.bias.copy_(uniform(module.bias, -0.5, 0.5))
                module.running_mean.copy_(uniform(module.running_mean, -0.5, 0.5))
                module.running_var.copy_(uniform(module.running_var, 0.3, 3.0))
            elif isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear)):
                bound = (3.0 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(uniform(module.weight, -bound, bound))
                if module.bias is not None:
                    module.bias.copy_(uniform(module.bias, -0.3, 0.3))
    return net.eval()


def round_as_stored(net):
    """Rounds the weights as the zoo stores them: 16 bit, after the folding of a block's second norm."""
    folded = {}
    for module in net.modules():
        if isinstance(module, Residual):
            norm = module.conv_path[1].bn
            folded[module.conv_path[0].layer] = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).double()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                scale = folded.get(module, torch.ones(len(module.weight)).double())
                scale = scale.reshape([-1] + [1] * (module.weight.ndim - 1))
                module.weight.copy_((module.weight.double() * scale).half().double() / scale)
    return net
