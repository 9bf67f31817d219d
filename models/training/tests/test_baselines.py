"""The nets of Table 2: sizes as published, any volume, and graphs that compute what the nets do."""

import pytest
import torch

from paper_like import randomize
from triage_models import baselines, export

onnxruntime = pytest.importorskip("onnxruntime")


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def test_resnet50_has_its_parameters():
    # torchvision's 25 557 032, less two of the stem's three input channels.
    assert sum(p.numel() for p in baselines.ResNet50().parameters()) == 25_557_032 - 2 * 64 * 49


@pytest.mark.parametrize(
    "net, graph, shape",
    [
        (baselines.ResNet50, export.resnet_graph, (1, 1, 61, 75)),
        (baselines.SeriesHead, export.head_graph, (1, 15_000)),
        (baselines.VolumeNet, export.volume_graph, (1, 1, 9, 16, 21)),
    ],
)
def test_graphs_compute_what_the_nets_do(net, graph, shape):
    net = randomize(net(), 5)
    x = torch.rand(shape)
    with torch.no_grad():
        want = net(x)
    got = run(graph(net), x)
    assert got.shape == want.shape
    # 16-bit weights.
    assert float((got - want).abs().max()) < 0.02 * max(1.0, float(want.abs().max()))
