"""Small nets with the operators of the paper's 3-D U-Net and ResNet50 (Table 2), exported by PyTorch with its results.

`python make_nets.py` writes `unet3d.onnx`, `resnet.onnx` and beside each the output (every seventh value) for the input that
`../nets.rs` makes. Weights are random: the nets prove operators, not findings.
"""

import json

import torch
from torch import nn


class UNet3d(nn.Module):
    """Two levels: 3x3x3 convolutions, batch normalization, max-pooling, trilinear upsampling, concatenation."""

    def __init__(self):
        super().__init__()
        self.down = self.run(1, 8)
        self.bottom = self.run(8, 16)
        self.up = self.run(24, 8)
        self.head = nn.Conv3d(8, 1, 1)

    @staticmethod
    def run(inputs, outputs):
        return nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm3d(outputs),
            nn.ReLU(),
            nn.Conv3d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm3d(outputs),
            nn.ReLU(),
        )

    def forward(self, x):
        skip = self.down(x)
        low = self.bottom(nn.functional.max_pool3d(skip, 2, ceil_mode=True))
        low = nn.functional.interpolate(low, scale_factor=2, mode="trilinear", align_corners=False)
        return self.head(self.up(torch.cat([low, skip], dim=1)))


class Bottleneck(nn.Module):
    """ResNet50's block."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 4 * width, 1, bias=False),
            nn.BatchNorm2d(4 * width),
        )
        self.short = nn.Sequential()
        if stride != 1 or inputs != 4 * width:
            self.short = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x):
        return torch.relu(self.body(x) + self.short(x))


class ResNet(nn.Module):
    """ResNet50 with a one-channel stem, an eighth as wide and one or two blocks a stage."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.Sequential(Bottleneck(8, 8, 1), Bottleneck(32, 8, 1), Bottleneck(32, 16, 2), Bottleneck(64, 24, 2))
        self.out = nn.Linear(96, 301)

    def forward(self, x):
        x = self.stages(self.stem(x))
        return self.out(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


def main():
    torch.manual_seed(1)
    for name, net, dims in (("unet3d", UNet3d(), (8, 20, 24)), ("resnet", ResNet(), (70, 61))):
        for module in net.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
        net.eval()
        count = torch.tensor(dims).prod().item()
        x = ((torch.arange(count) * 7919 + 13) % 1009).float() / 1009
        x = x.reshape(1, 1, *dims)
        with torch.no_grad():
            values = net(x).flatten()[::7].tolist()
        axes = {0: "N", **{2 + i: f"S{i}" for i in range(len(dims))}}
        training = torch.onnx.TrainingMode.PRESERVE  # batch normalizations stay nodes
        torch.onnx.export(
            net, x, f"{name}.onnx", input_names=["x"], output_names=["y"], opset_version=14, training=training,
            do_constant_folding=True, dynamic_axes={"x": axes},
        )
        with open(f"{name}.json", "w", encoding="utf-8") as file:
            json.dump([round(v, 6) for v in values], file)
            file.write("\n")


if __name__ == "__main__":
    main()
