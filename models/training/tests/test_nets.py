"""The architectures: widths and counts as in the reference, any size, the pyramid's order and windows."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from triage_models import nets


def widths(net):
    """The (inputs, outputs) of every residual block of a run."""
    return [(block.conv1.in_channels, block.conv2.out_channels) for block in net]


def test_levels_are_the_papers():
    for net, first in ((nets.LungNet(), [(8, 8), (8, 8)]), (nets.MultitaskSpatial(), [(8, 8)])):
        unet = net.backbone
        assert [widths(run) for run in unet.down] == [
            [(8, 8), (8, 8)], [(8, 16), (16, 16)], [(16, 32), (32, 32)], [(32, 64), (64, 64)], [(64, 128), (128, 128)],
            [(128, 256), (256, 256)],
        ]
        assert widths(unet.bridge) == [(256, 512), (512, 256)]
        assert [widths(run) for run in unet.up] == [
            first, [(16, 16), (16, 8)], [(32, 32), (32, 16)], [(64, 64), (64, 32)], [(128, 128), (128, 64)],
            [(256, 256), (256, 128)],
        ]


def block_size(a, b):
    return 2 * a + 9 * a * b + 2 * b + 9 * b * b + (a * b if a != b else 0)


def test_number_of_parameters():
    pairs = [(8, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    pairs += [(128, 256), (256, 256), (256, 512), (512, 256), (8, 8), (16, 16), (16, 8), (32, 32), (32, 16)]
    pairs += [(64, 64), (64, 32), (128, 128), (128, 64), (256, 256), (256, 128)]
    shared = 80 + sum(block_size(a, b) for a, b in pairs)
    count = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    assert count(nets.LungNet()) == shared + block_size(8, 8) + 24
    assert count(nets.MultitaskSpatial()) == shared + block_size(8, 8) + 24 + 4680 * 1024 + 1024 + 1024


@pytest.mark.parametrize("size", [(1, 1), (7, 64), (65, 33)])
def test_any_size(size):
    x = torch.rand(1, 1, *size)
    net = nets.MultitaskSpatial().eval()
    with torch.no_grad():
        features, lesions = net(x)
    assert features.shape == (1, 8) + size and lesions.shape == (1, 1) + size


def test_windows_overlap_where_the_size_is_no_multiple():
    assert nets.pyramid_windows(16, 2) == [(0, 4), (4, 8), (8, 12), (12, 16)]
    assert nets.pyramid_windows(11, 2) == [(0, 5), (2, 7), (4, 9), (6, 11)]
    assert nets.pyramid_windows(9, 0) == [(0, 9)]


def test_windows_of_short_axes_cover_and_are_never_empty():
    assert nets.pyramid_windows(3, 2) == [(0, 1), (0, 2), (1, 3), (2, 3)]
    for n in range(1, 8):
        windows = nets.pyramid_windows(n, 3)
        assert len(windows) == 8 and windows[0][0] == 0 and windows[-1][1] == n
        assert all(a < b for a, b in windows)
        assert {i for a, b in windows for i in range(a, b)} == set(range(n))


@pytest.mark.parametrize("shape", [(8, 8, 8), (17, 23, 11), (31, 16, 19)])
def test_pyramid_is_max_pool3d_level_by_level(shape):
    volume = torch.randn(8, *shape)
    levels = []
    for level in range(4):
        stride = [n // 2**level for n in shape]
        window = [n - (2**level - 1) * s for n, s in zip(shape, stride)]
        levels.append(functional.max_pool3d(volume[None], window, stride).flatten())
    pooled = nets.pyramid_max_pool(volume)
    assert pooled.shape == (nets.PYRAMID_SIZE,) == (4680,)
    assert torch.equal(pooled, torch.cat(levels))


def test_identification_head_layers():
    head = nets.IdentificationHead()
    assert (head.hidden.in_features, head.hidden.out_features) == (4680, 1024)
    assert head.out.bias is None and isinstance(head.dropout, nn.Dropout)
    head.eval()
    assert head(torch.randn(3, 4680)).shape == (3, 1)
