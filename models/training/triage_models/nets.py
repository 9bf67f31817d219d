"""The paper's 2-D nets, layer by layer (Goncharov et al., 2020): lung net, 2-D U-Net, Multitask-Spatial and Multitask-Latent.

Owns the architectures and nothing else: no data, no training, no files.

A slice is a float tensor [N, 1, H, W], windowed to [0, 1], on the 2 mm grid, of any H and W.
All are pre-activation residual U-Nets of 7 levels: max-pooling by 2 in ceil mode on the way
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
# Channels of the maps that level l of the up path gives, l = 1 (the finest) to 6; 7 is the bridge.
LEVEL_CHANNELS = (8, 8, 16, 32, 64, 128, 256)
PYRAMID_LEVELS = 4
HIDDEN = 1024

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
        return self.maps(x)[0]

    def maps(self, x):
        """The maps of all levels of the way up, the finest first; the seventh is the bridge's."""
        x = self.stem(x)
        skips = []
        for level in self.down:
            x = level(x)
            skips.append(x)
            x = MAX_POOL[self.axes](x, 2, ceil_mode=True)
        maps = [self.bridge(x)]
        for level, skip in zip(reversed(self.up), reversed(skips)):
            x = functional.interpolate(maps[0], size=skip.shape[2:], mode=LINEAR[self.axes], align_corners=False)
            maps.insert(0, level(x + skip))
        return maps


class Logits(nn.Module):
    """BN -> ReLU -> conv 1x1 without bias: [N, 8, H, W] -> [N, 1, H, W] logits."""

    def __init__(self, axes=2):
        super().__init__()
        self.norm = NORM[axes](FEATURES)
        self.conv = CONV[axes](FEATURES, 1, 1, bias=False)

    def forward(self, x):
        return self.conv(functional.relu(self.norm(x)))


class LungNet(nn.Module):
    """Slices [N, 1, H, W] -> logits [N, 1, H, W]: of lung, or, as the 2-D U-Net of Table 2, of lesion.

    A run of 8 8 8 and a head are the same layers as the multitask net's run of 8 8, block and head.
    """

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


def pyramid_max_pool_1d(vectors):
    """Pyramid max-pooling along the slices: [C, D] -> [C * 15]; level by level, channel-major inside a level, then slice."""
    return torch.cat(
        [
            torch.stack([vectors[:, start:stop].amax(dim=1) for start, stop in pyramid_windows(vectors.shape[1], level)], 1).reshape(-1)
            for level in range(PYRAMID_LEVELS)
        ]
    )


class IdentificationHead(nn.Module):
    """Pooled features [N, `inputs`] -> logits [N, 1]."""

    def __init__(self, inputs=PYRAMID_SIZE, dropout=0.5, bias=False):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(inputs, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1, bias=bias)

    def forward(self, x):
        return self.out(self.dropout(functional.relu(self.hidden(self.dropout(x)))))


class MultitaskSpatial(nn.Module):
    """Multitask-Spatial-`level`: slices -> (features [N, C, h, w], lesion logits [N, 1, H, W]).

    The features are the maps of `level` of the way up, of size ceil(H / 2^(level - 1)); `pool` makes the vector of a series of
    them, and `identification` its logit.
    """

    def __init__(self, level=1):
        super().__init__()
        self.level = level
        self.backbone = UNet(UP_MULTITASK)
        self.lesions = nn.Sequential(ResidualBlock(FEATURES, FEATURES), Logits())
        self.identification = IdentificationHead(self.pooled_size())

    def pooled_size(self):
        return LEVEL_CHANNELS[self.level - 1] * sum(8**level for level in range(PYRAMID_LEVELS))

    def features(self, maps):
        return maps[self.level - 1]

    def pool(self, features):
        """Features of a series' slices, head first [D, C, h, w] -> vector."""
        return pyramid_max_pool(features.permute(1, 2, 3, 0))

    def forward(self, x):
        maps = self.backbone.maps(x)
        return self.features(maps), self.lesions(maps[0])


class MultitaskLatent(MultitaskSpatial):
    """Multitask-Latent: slices -> (features [N, 256], lesion logits [N, 1, H, W]).

    The paper: the encoder's output, with "no explicit spatial structure in the axial plane". Its code is not public; here the
    largest value of each of the bridge's 256 maps, pooled along the slices as ResNet50's features are.
    """

    def __init__(self):
        super().__init__(level=7)

    def pooled_size(self):
        return LEVEL_CHANNELS[-1] * sum(2**level for level in range(PYRAMID_LEVELS))

    def features(self, maps):
        return maps[-1].amax(dim=(2, 3))

    def pool(self, features):
        """Features of a series' slices, head first [D, 256] -> vector."""
        return pyramid_max_pool_1d(features.T)
