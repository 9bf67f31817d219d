"""The zoo format: the graphs compute what the nets do, at any size, and are what the contract says."""

import hashlib

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from paper_like import randomize
from triage_models import export, from_zoo
from triage_models.interpret import Interpreter, Unsupported
from triage_models.nets import LungNet, MultitaskLatent, MultitaskSpatial

DESCRIPTION = {
    "version": "0",
    "licence": "none",
    "data": {"training": 'two\nlines, a "quote" and a \\ backslash'},
    "quality": {"dice": 0.5},
    "not_measured": {"all": "all"},
}
# 16-bit weights: 11 bits each, over some sixty layers.
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    torch.manual_seed(0)
    lungs, multitask = randomize(LungNet(), 3), randomize(MultitaskSpatial(), 4)
    export.write(str(folder / "lungs"), "lungs", lungs, DESCRIPTION)
    export.write(str(folder / "multitask"), "multitask-spatial-1", multitask, DESCRIPTION)
    return folder, lungs, multitask


def runners(path):
    """Our interpreter, and ONNX Runtime where it is installed."""
    yield Interpreter(str(path))
    try:
        import onnxruntime
    except ImportError:
        return
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    yield lambda x: tuple(torch.from_numpy(o) for o in session.run(None, {name: x.numpy()}))


@pytest.mark.parametrize("size", [(40, 48), (33, 1), (7, 9)])
def test_graphs_compute_what_the_nets_do(zoo, size):
    folder, lungs, multitask = zoo
    x = torch.rand(2, 1, *size)
    with torch.no_grad():
        wanted = (lungs(x),) + multitask(x)
    for run_lungs, run_multitask in zip(runners(folder / "lungs/model.onnx"), runners(folder / "multitask/model.onnx")):
        for got, want in zip(run_lungs(x) + run_multitask(x), wanted):
            assert got.shape == want.shape
            assert float((got - want).abs().max()) < TOLERANCE * max(1.0, float(want.abs().max()))


def test_head_computes_what_the_net_does(zoo):
    folder, _, multitask = zoo
    p = torch.randn(3, 4680)
    with torch.no_grad():
        want = multitask.identification(p)
    for run in runners(folder / "multitask/head.onnx"):
        assert float((run(p)[0] - want).abs().max()) < TOLERANCE


def test_weights_are_16_bit_and_names_as_agreed(zoo):
    folder, _, _ = zoo
    expected = {
        "lungs/model.onnx": (["slice"], ["lungs"]),
        "multitask/model.onnx": (["slice"], ["features", "lesions"]),
        "multitask/head.onnx": (["pyramid"], ["covid"]),
    }
    for path, (inputs, outputs) in expected.items():
        model = onnx.load(str(folder / path))
        assert [i.name for i in model.graph.input] == inputs
        assert [o.name for o in model.graph.output] == outputs
        assert model.opset_import[0].version == 17
        assert {n.op_type for n in model.graph.node} <= {
            "Conv", "BatchNormalization", "Relu", "Add", "MaxPool", "Resize", "Shape", "Cast", "Gemm",
        }
        for weight in model.graph.initializer:
            assert (weight.data_type == TensorProto.FLOAT16) == (len(weight.dims) > 1), weight.name


def test_card(zoo):
    tomllib = pytest.importorskip("tomllib")
    folder, _, _ = zoo
    card = tomllib.loads((folder / "multitask/card.toml").read_text(encoding="utf-8"))
    assert card["data"]["training"].strip() == DESCRIPTION["data"]["training"]
    assert card["thresholds"] == {"probability": 0.2, "operating_point": 0.5}
    assert card["input"]["window_hu"] == [-1000.0, 300.0]
    for key, name in card["files"].items():
        assert card["sha256"][key] == hashlib.sha256((folder / "multitask" / name).read_bytes()).hexdigest()


def test_a_weight_beyond_16_bits_is_refused(zoo):
    net = randomize(LungNet(), 5)
    with torch.no_grad():
        net.backbone.stem.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(export.ExportError, match="65504"):
        export.slices_graph(net, "lungs")


def test_interpreter_refuses_other_operators(tmp_path):
    node = onnx.helper.make_node("Sigmoid", ["x"], ["y"])
    value = lambda name: onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])  # noqa: E731
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value("x")], [value("y")])), str(tmp_path / "m"))
    with pytest.raises(Unsupported, match="Sigmoid"):
        Interpreter(str(tmp_path / "m"))


def test_norm_is_exact_in_double():
    norm = torch.nn.BatchNorm2d(4).eval()
    randomize(norm, 6)
    scale, shift = export.scale_and_shift(norm)
    x = torch.randn(1, 4, 2, 2)
    want = norm.double()(x.double()).detach().numpy()
    assert np.allclose(x.numpy() * scale[:, None, None] + shift[:, None, None], want, atol=1e-12)


@pytest.mark.parametrize("name, net", [("multitask-spatial-4", MultitaskSpatial(4)), ("multitask-latent", MultitaskLatent())])
def test_other_features(tmp_path, name, net):
    net = randomize(net, 6)
    export.write(str(tmp_path), name, net, DESCRIPTION)
    x, p = torch.rand(2, 1, 37, 41), torch.randn(2, net.pooled_size())
    with torch.no_grad():
        wanted = (*net(x), net.identification(p))
    for run_model, run_head in zip(runners(tmp_path / "model.onnx"), runners(tmp_path / "head.onnx")):
        for got, want in zip((*run_model(x), *run_head(p)), wanted):
            assert got.shape == want.shape
            assert float((got - want).abs().max()) < TOLERANCE * max(1.0, float(want.abs().max()))


def test_unet2d_has_the_graph_of_the_lung_net(tmp_path):
    tomllib = pytest.importorskip("tomllib")
    net = randomize(LungNet(), 7)
    export.write(str(tmp_path), "unet2d", net, DESCRIPTION)
    model = onnx.load(str(tmp_path / "model.onnx"))
    assert [o.name for o in model.graph.output] == ["lesions"] and [i.name for i in model.graph.input] == ["slice"]
    card = tomllib.loads((tmp_path / "card.toml").read_text(encoding="utf-8"))
    assert card["task"] == "lesions" and card["thresholds"] == {"probability": 0.2} and card["files"] == {"model": "model.onnx"}


@pytest.mark.parametrize(
    "name, task, thresholds",
    [
        ("unet3d", "lesions3d", {"probability": 0.2}),
        ("resnet50", "series", {"operating_point": 0.5}),
        ("multitask-latent", "multitask", {"probability": 0.2, "operating_point": 0.5}),
    ],
)
def test_card_of_a_method_without_weights(tmp_path, name, task, thresholds):
    tomllib = pytest.importorskip("tomllib")
    export.write_zoo(str(tmp_path), name, {}, DESCRIPTION)
    card = tomllib.loads((tmp_path / "card.toml").read_text(encoding="utf-8"))
    assert card["trained"] is False and "files" not in card and "sha256" not in card
    assert card["task"] == task and card["thresholds"] == thresholds and card.get("patch") == (export.PATCH if name == "unet3d" else None)
    assert [p.name for p in tmp_path.iterdir()] == ["card.toml"]


def test_weights_come_back_from_the_zoo(zoo):
    folder, lungs, multitask = zoo
    back = from_zoo.load(MultitaskSpatial(), str(folder / "multitask/model.onnx"))
    from_zoo.load_head(back.identification, str(folder / "multitask/head.onnx"))
    assert export.multitask_graph(back).SerializeToString() == (folder / "multitask/model.onnx").read_bytes()
    assert export.head_graph(back.identification).SerializeToString() == (folder / "multitask/head.onnx").read_bytes()
    # The 2-D U-Net has the same layers as backbone and lesion head.
    unet = from_zoo.load(LungNet(), str(folder / "multitask/model.onnx"))
    x = torch.rand(1, 1, 21, 30)
    with torch.no_grad():
        assert torch.allclose(unet(x), back(x)[1], atol=1e-5)
    with pytest.raises(from_zoo.ZooError, match="where the net has"):
        from_zoo.load(MultitaskSpatial(), str(folder / "multitask/head.onnx"))
