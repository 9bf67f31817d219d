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


@pytest.mark.parametrize("level, channels", [(2, 8), (3, 16), (4, 32), (5, 64), (6, 128), (7, 256)])
def test_features_of_a_level(level, channels):
    net = nets.MultitaskSpatial(level).eval()
    with torch.no_grad():
        features, lesions = net(torch.rand(9, 1, 37, 52))
    rows, columns = 37, 52
    for _ in range(level - 1):
        rows, columns = -(-rows // 2), -(-columns // 2)
    assert features.shape == (9, channels, rows, columns) and lesions.shape == (9, 1, 37, 52)
    vector = net.pool(features)
    assert vector.shape == (585 * channels,) == (net.identification.hidden.in_features,)
    assert torch.equal(vector[:channels], features.amax(dim=(0, 2, 3)))


def test_level_1_is_the_map_before_the_lesion_head():
    net = nets.MultitaskSpatial().eval()
    x = torch.rand(1, 1, 20, 24)
    with torch.no_grad():
        features, lesions = net(x)
        assert torch.equal(features, net.backbone(x)) and torch.equal(lesions, net.lesions(features))


def test_latent_features_have_no_place_in_the_plane():
    net = nets.MultitaskLatent().eval()
    with torch.no_grad():
        features, lesions = net(torch.rand(11, 1, 70, 65))
    assert features.shape == (11, 256) and lesions.shape == (11, 1, 70, 65)
    vector = net.pool(features)
    assert vector.shape == (3840,) == (net.identification.hidden.in_features,)
    # Level by level, channel-major inside a level: the second level's windows of 11 slices are 0 to 5 and 5 to 10.
    assert torch.equal(vector[:256], features.amax(0))
    assert torch.equal(vector[256:768].reshape(256, 2), torch.stack([features[:6].amax(0), features[5:].amax(0)], 1))


def test_pyramid_along_the_slices_is_max_pool1d_level_by_level():
    vectors = torch.randn(5, 19)
    levels = []
    for level in range(4):
        stride = 19 // 2**level
        levels.append(functional.max_pool1d(vectors[None], 19 - (2**level - 1) * stride, stride).flatten())
    assert torch.equal(nets.pyramid_max_pool_1d(vectors), torch.cat(levels))
