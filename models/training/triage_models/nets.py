"""The paper's lung net and Multitask-Spatial-1, layer by layer (Goncharov et al., 2020).

Owns the architectures and nothing else: no data, no training, no files.

A slice is a float tensor [N, 1, H, W], windowed to [0, 1], on the 2 mm grid, of any H and W.
Both nets are pre-activation residual U-Nets of 7 levels: max-pooling by 2 in ceil mode on the way
down, bilinear resizing to the skip's own size on the way up, merged with the skip by addition.
"""

import torch
from torch import nn
from torch.nn import functional

# Widths of each level's runs: `a b c` is two residual blocks a -> b and b -> c.
DOWN = ((8, 8, 8), (8, 16, 16), (16, 32, 32), (32, 64, 64), (64, 128, 128), (128, 256, 256))
BRIDGE = (256, 512, 256)
UP_LUNGS = ((8, 8, 8), (16, 16, 8), (32, 32, 16), (64, 64, 32), (128, 128, 64), (256, 256, 128))
UP_MULTITASK = ((8, 8),) + UP_LUNGS[1:]

FEATURES = 8
PYRAMID_LEVELS = 4

# By number of axes: slices or volumes.
CONV = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOL = {2: functional.max_pool2d, 3: functional.max_pool3d}
LINEAR = {2: "bilinear", 3: "trilinear"}
PYRAMID_SIZE = FEATURES * sum(8**level for level in range(PYRAMID_LEVELS))  # 4680


class ResidualBlock(nn.Module):
    """x -> shortcut(x) + conv3(relu(bn(conv3(relu(bn(x)))))); the shortcut is 1x1 if widths differ."""

    def __init__(self, inputs, outputs, axes=2):
        super().__init__()
        self.norm1 = NORM[axes](inputs)
        self.conv1 = CONV[axes](inputs, outputs, 3, padding=1, bias=False)
        self.norm2 = NORM[axes](outputs)
        self.conv2 = CONV[axes](outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = CONV[axes](inputs, outputs, 1, bias=False) if inputs != outputs else None

    def forward(self, x):
        y = self.conv1(functional.relu(self.norm1(x)))
        y = self.conv2(functional.relu(self.norm2(y)))
        return y + (x if self.shortcut is None else self.shortcut(x))


def run(widths, axes=2):
    """The residual blocks of a run of widths."""
    return nn.Sequential(*[ResidualBlock(a, b, axes) for a, b in zip(widths, widths[1:])])


class UNet(nn.Module):
    """Stem, six levels and the bridge: [N, 1, H, W] -> [N, 8, H, W], or with depth before H if it has three axes."""

    def __init__(self, up, axes=2):
        super().__init__()
        self.axes = axes
        self.stem = CONV[axes](1, DOWN[0][0], 3, padding=1)
        self.down = nn.ModuleList([run(widths, axes) for widths in DOWN])
        self.bridge = run(BRIDGE, axes)
        self.up = nn.ModuleList([run(widths, axes) for widths in up])

    def forward(self, x):
        x = self.stem(x)
        skips = []
        for level in self.down:
            x = level(x)
            skips.append(x)
            x = MAX_POOL[self.axes](x, 2, ceil_mode=True)
        x = self.bridge(x)
        for level, skip in zip(reversed(self.up), reversed(skips)):
            x = functional.interpolate(x, size=skip.shape[2:], mode=LINEAR[self.axes], align_corners=False)
            x = level(x + skip)
        return x


class Logits(nn.Module):
    """BN -> ReLU -> conv 1x1 without bias: [N, 8, H, W] -> [N, 1, H, W] logits."""

    def __init__(self, axes=2):
        super().__init__()
        self.norm = NORM[axes](FEATURES)
        self.conv = CONV[axes](FEATURES, 1, 1, bias=False)

    def forward(self, x):
        return self.conv(functional.relu(self.norm(x)))


class LungNet(nn.Module):
    """Slices [N, 1, H, W] -> lung logits [N, 1, H, W]."""

    def __init__(self):
        super().__init__()
        self.backbone = UNet(UP_LUNGS)
        self.head = Logits()

    def forward(self, x):
        return self.head(self.backbone(x))


def pyramid_windows(n, level):
    """The 2^level windows [start, stop) that cut an axis of size n.

    The paper's code: stride floor(n / 2^level), window n - (2^level - 1) * stride, so windows overlap
    unless n is a multiple of 2^level. Where n < 2^level that stride is 0 and the original fails; there
    window i is [floor(i n / 2^level), ceil((i + 1) n / 2^level)): one voxel each, voxels repeated.
    """
    count = 2**level
    stride = n // count
    if stride == 0:
        return [(i * n // count, -((-(i + 1) * n) // count)) for i in range(count)]
    window = n - (count - 1) * stride
    return [(i * stride, i * stride + window) for i in range(count)]


def pyramid_max_pool(volume):
    """Pyramid max-pooling: [C, H, W, D] -> [C * 585] for 4 levels.

    Ordered level by level (coarse first), channel-major inside a level, then row, column, slice.
    """
    pooled = []
    for level in range(PYRAMID_LEVELS):
        cells = volume
        for axis in (1, 2, 3):
            cells = torch.cat(
                [
                    cells.narrow(axis, start, stop - start).amax(dim=axis, keepdim=True)
                    for start, stop in pyramid_windows(volume.shape[axis], level)
                ],
                dim=axis,
            )
        pooled.append(cells.reshape(-1))
    return torch.cat(pooled)


class IdentificationHead(nn.Module):
    """Pyramid features [N, 4680] -> logits [N, 1]."""

    def __init__(self, dropout=0.5):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(PYRAMID_SIZE, 1024)
        self.out = nn.Linear(1024, 1, bias=False)

    def forward(self, x):
        return self.out(self.dropout(functional.relu(self.hidden(self.dropout(x)))))


class MultitaskSpatial(nn.Module):
    """Slices -> (features [N, 8, H, W], lesion logits [N, 1, H, W]); `identification` on the pyramid."""

    def __init__(self):
        super().__init__()
        self.backbone = UNet(UP_MULTITASK)
        self.lesions = nn.Sequential(ResidualBlock(FEATURES, FEATURES), Logits())
        self.identification = IdentificationHead()

    def forward(self, x):
        features = self.backbone(x)
        return features, self.lesions(features)
