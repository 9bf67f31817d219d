"""Conversion of the paper's checkpoints: every tensor in its place, and a clear refusal otherwise."""

import re
import sys

import pytest
import torch

from paper_like import PaperMultitask, paper_lungs, randomize, round_as_stored
from triage_models import convert
from triage_models.interpret import Interpreter

SIZES = [(37, 52)]


@pytest.fixture(scope="module")
def lungs():
    return randomize(paper_lungs(), 1)


@pytest.fixture(scope="module")
def multitask():
    return randomize(PaperMultitask(), 2)


def difference(a, b):
    """Largest difference, relative to the largest value where that exceeds 1."""
    return float((a - b).abs().max() / max(1.0, float(b.abs().max())))


def test_lungs_compute_the_same(lungs):
    net = convert.lungs_from(lungs.state_dict())
    for size in SIZES:
        x = torch.rand(2, 1, *size)
        with torch.no_grad():
            assert difference(net(x), lungs(x)) < 1e-5


def test_multitask_computes_the_same(multitask):
    net = convert.multitask_from(multitask.state_dict())
    for size in SIZES:
        x = torch.rand(2, 1, *size)
        with torch.no_grad():
            features, lesions = net(x)
            assert difference(features, multitask.backbone(x)) < 1e-5
            assert difference(lesions, multitask.sgm_head(multitask.backbone(x))) < 1e-5
    p = torch.randn(2, 4680)
    with torch.no_grad():
        assert difference(net.identification(p), multitask.cls_head(p)) < 1e-5


def test_command_writes_a_zoo_that_computes_the_same(lungs, multitask, tmp_path, monkeypatch):
    torch.save(lungs.state_dict(), tmp_path / "lungs.pth")
    torch.save({"state_dict": multitask.state_dict()}, tmp_path / "multitask.pth")
    command = ["convert", "--lungs", str(tmp_path / "lungs.pth"), "--multitask", str(tmp_path / "multitask.pth")]
    monkeypatch.setattr(sys, "argv", command + ["--out", str(tmp_path / "zoo")])
    convert.main()
    rounded_lungs = randomize(paper_lungs(), 1)
    rounded_multitask = randomize(PaperMultitask(), 2)
    round_as_stored(rounded_lungs)
    round_as_stored(rounded_multitask)
    x = torch.rand(1, 1, 37, 52)
    zoo = tmp_path / "zoo"
    with torch.no_grad():
        (logits,) = Interpreter(str(zoo / "lungs" / "model.onnx"))(x)
        assert difference(logits, rounded_lungs(x)) < 1e-4
        assert difference(logits, lungs(x)) > 1e-6, "weights were not rounded at all"
        features, lesions = Interpreter(str(zoo / "multitask-spatial-1" / "model.onnx"))(x)
        maps = rounded_multitask.backbone(x)
        assert difference(features, maps) < 1e-4
        assert difference(lesions, rounded_multitask.sgm_head(maps)) < 1e-4
        p = torch.randn(1, 4680)
        (covid,) = Interpreter(str(zoo / "multitask-spatial-1" / "head.onnx"))(p)
        assert difference(covid, rounded_multitask.cls_head(p)) < 1e-4
    assert 'task = "multitask"' in (zoo / "multitask-spatial-1" / "card.toml").read_text()


def test_parts_in_another_order_and_under_other_names(lungs):
    state = lungs.state_dict()
    later = {k: v for k, v in state.items() if ".bridge." in k}
    head = {k: v for k, v in state.items() if k.startswith("2.")}
    rest = {k: v for k, v in state.items() if k not in later and k not in head}
    renamed = {f"module.{k}": v for part in (rest, later, head) for k, v in part.items()}
    x = torch.rand(1, 1, 33, 33)
    with torch.no_grad():
        assert difference(convert.lungs_from(renamed)(x), lungs(x)) < 1e-5


REFUSALS = [
    ("a wrong shape", lambda s: s.update({"1.down_path.2.0.conv_path.0.layer.weight": torch.zeros(32, 16, 5, 5)}), r"down_path\.2\.0\.conv_path\.0\.layer"),
    ("a wrong width", lambda s: s.update({"1.up_path.0.1.conv_path.1.layer.weight": torch.zeros(9, 8, 3, 3)}), r"up_path\.0\.1\.conv_path\.1\.layer.*\(9, 8, 3, 3\)"),
    ("a missing tail", lambda s: [s.pop(k) for k in list(s) if k.startswith("2.")], r"checkpoint ends"),
    ("something left over", lambda s: s.update({"3.weight": torch.zeros(8, 8, 3, 3)}), r"^3 .*nothing in our net"),
    ("not a number", lambda s: s.update({"0.bias": torch.full((8,), float("nan"))}), r"^0 .*not finite"),
]


@pytest.mark.parametrize("name, change, message", REFUSALS, ids=[r[0] for r in REFUSALS])
def test_refuses(lungs, name, change, message):
    state = dict(lungs.state_dict())
    change(state)
    with pytest.raises(convert.ConversionError) as error:
        convert.lungs_from(state)
    assert re.search(message, str(error.value)), str(error.value)


def test_refuses_a_repetition_that_differs(multitask):
    state = dict(multitask.state_dict())
    state["model.0.network.0.bias"] = state["model.0.network.0.bias"] + 1
    with pytest.raises(convert.ConversionError, match="repetition"):
        convert.multitask_from(state)


def test_refuses_one_net_as_the_other(lungs, multitask):
    with pytest.raises(convert.ConversionError):
        convert.lungs_from(multitask.state_dict())
    with pytest.raises(convert.ConversionError):
        convert.multitask_from(lungs.state_dict())
