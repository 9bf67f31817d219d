"""Parameters and work against sums written out by hand."""

import torch

from triage_models import costs, nets
from triage_models.baselines import VolumeNet


def test_multiply_adds_of_a_block():
    block = nets.ResidualBlock(8, 16).eval()
    # Two 3 x 3 and a 1 x 1 shortcut on 5 x 7 pixels.
    assert costs.multiply_adds(block, lambda n: n(torch.zeros(1, 8, 5, 7))) == 35 * (8 * 16 * 9 + 16 * 16 * 9 + 8 * 16)


def test_work_of_the_3d_net_is_what_its_layers_do():
    net = VolumeNet().eval()
    counted = costs.multiply_adds(net, lambda n: n(torch.zeros(1, 1, 9, 12, 17)))
    assert costs.volume_multiply_adds(net, [9, 12, 17]) == counted


def test_the_papers_net():
    parameters, work = costs.of("unet2d")
    # The reference gives about 0.8 GMAC for 180 x 180; this is 300 slices of half that area.
    assert parameters == sum(p.numel() for p in nets.LungNet().parameters()) and 230 < work < 270
