"""Two nets that the paper compares its own with (Table 2): the 3-D U-Net and ResNet50, at full size.

Owns the architectures and nothing else. No weights of them are shipped.
"""

import torch
from torch import nn
from torch.nn import functional

from .nets import UP_LUNGS, IdentificationHead, Logits, UNet, pyramid_max_pool_1d


class VolumeNet(nn.Module):
    """Volumes [N, 1, D, H, W] -> lesion logits of the same size.

    The paper gives its patch, 160 x 160 x 160, and that its convolutions are 3-D residual blocks; levels and widths are taken
    from its 2-D nets.
    """

    def __init__(self):
        super().__init__()
        self.backbone = UNet(UP_LUNGS, axes=3)
        self.head = Logits(axes=3)

    def forward(self, x):
        return self.head(self.backbone(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolution to four times the width; the shortcut is 1x1 where sizes differ."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.norm1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = self.norm = None
        if stride != 1 or inputs != outputs:
            self.shortcut, self.norm = nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = functional.relu(self.norm1(self.conv1(x)))
        y = functional.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return functional.relu(y + (x if self.shortcut is None else self.norm(self.shortcut(x))))


class ResNet50(nn.Module):
    """Slices [N, 1, H, W] -> 1000 features each: torchvision's ResNet50 with a stem of one channel."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        blocks, inputs = [], 64
        for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for i in range(count):
                blocks.append(Bottleneck(inputs, width, stride if i == 0 else 1))
                inputs = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.features = nn.Linear(inputs, 1000)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.norm(self.stem(x))), 3, 2, 1)
        x = self.blocks(x)
        return self.features(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class SeriesHead(IdentificationHead):
    """The features of a series, pooled over its slices in 1 + 2 + 4 + 8 windows [N, 15000] -> logit of COVID-19 [N, 1]."""

    def __init__(self):
        super().__init__(15 * 1000, bias=True)


class SeriesNet(nn.Module):
    """ResNet50 of Table 2: slices -> 1000 features each; `pool` makes the vector of a series, `identification` its logit."""

    def __init__(self):
        super().__init__()
        self.backbone = ResNet50()
        self.identification = SeriesHead()

    def pool(self, features):
        """Features of a series' slices, head first [D, 1000] -> vector [15000]."""
        return pyramid_max_pool_1d(features.T)

    def forward(self, x):
        return self.backbone(x)
