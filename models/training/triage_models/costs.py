"""Parameters and work of every method: `python -m triage_models.costs`.

Owns these counts. The work is that of the method's own net, without the lung net that all of them need: multiply-adds of convolutions and
linear layers, times two, for a study of 300 slices whose lung box is 110 x 150 at 2 mm. Normalizations, resizing and pooling, some
per cent of it, are left out.
"""

import math

import torch
from torch import nn

from . import paper

SLICES, ROWS, COLUMNS = 300, 110, 150
PATCH = 160
LAYERS = (nn.Conv2d, nn.Conv3d, nn.Linear)


def multiply_adds(net, run):
    """Of all layers that `run` uses, from the shapes alone."""
    total = [0]

    def count(layer, inputs, output):
        each = layer.weight[0].numel()
        total[0] += output.numel() * each

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, LAYERS)]
    with torch.no_grad():
        run(net)
    for hook in hooks:
        hook.remove()
    return total[0]


def volume_multiply_adds(net, size):
    """Of the 3-D U-Net on a patch, from its layers' levels: no such patch is computed for this."""
    levels = [size]
    for _ in range(len(net.backbone.down)):
        levels.append([-(-n // 2) for n in levels[-1]])
    parts = [(net.backbone.stem, 0), (net.head, 0), (net.backbone.bridge, len(levels) - 1)]
    parts += [(run, level) for side in (net.backbone.down, net.backbone.up) for level, run in enumerate(side)]
    convolutions = [(m, level) for part, level in parts for m in part.modules() if isinstance(m, LAYERS)]
    return sum(m.weight.numel() * math.prod(levels[level]) for m, level in convolutions)


def of(method):
    """(parameters, GFLOP a study)."""
    net = paper.net_of(method).eval()
    parameters = sum(p.numel() for p in net.parameters())
    if method == "unet3d":
        # The box is within a patch in the plane, and two patches long.
        work = -(-SLICES // PATCH) * volume_multiply_adds(net, [PATCH, ROWS, COLUMNS])
    else:
        work = SLICES * multiply_adds(net, lambda n: n(torch.empty(1, 1, ROWS, COLUMNS)))
        if hasattr(net, "identification"):
            work += net.identification.hidden.weight.numel() + net.identification.out.weight.numel()
    return parameters, 2 * work / 1e9


def main():
    print("| method | parameters, million | GFLOP a study |\n|---|---|---|")
    for method in paper.METHODS[1:]:
        parameters, work = of(method)
        print(f"| {method} | {parameters / 1e6:.1f} | {work:.0f} |")


if __name__ == "__main__":
    main()
