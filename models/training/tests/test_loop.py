"""The training loop: going on after a kill gives the same bits, the best checkpoint, mixed precision, logs."""

import json
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from triage_models import loop


class Killed(BaseException):
    """As a signal would."""


def recipe(die_at=None, validate=None, better=None, rate=lambda step: 0.02):
    """Normalization, dropout and momentum: all that a checkpoint must hold."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(4, 1, 1))
    calls = []

    def batch(rng):
        calls.append(1)
        if len(calls) == die_at:
            raise Killed
        x = torch.from_numpy(rng.rand(4, 1, 8, 9).astype(np.float32))
        return {"x": x, "y": (x > 0.5).float()}

    return loop.Recipe(
        net=net, batch=batch, loss=lambda net, b: {"loss": functional.binary_cross_entropy_with_logits(net(b["x"]).float(), b["y"])},
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.02), rate=rate, steps=12, epoch=3, validate=validate, better=better,
    )  # fmt: skip


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("die_at", [1, 5, 6, 12])
def test_goes_on_after_a_kill_as_if_there_had_been_none(tmp_path, die_at, mixed):
    whole = loop.Run(recipe(), str(tmp_path / "whole"), mixed=mixed)
    losses = whole.go()
    with pytest.raises(Killed):
        loop.Run(recipe(die_at), str(tmp_path / "cut"), mixed=mixed).go()
    # Whatever ran in between must not matter.
    torch.rand(7), np.random.rand(3)
    again = loop.Run(recipe(), str(tmp_path / "cut"), mixed=mixed, resume=True)
    assert again.done == (die_at - 1) // 3 * 3
    assert again.go() == losses
    assert same(torch.load(tmp_path / "whole" / "weights.pt"), torch.load(tmp_path / "cut" / "weights.pt"))


def test_seeds_differ_and_a_run_keeps_its_own(tmp_path):
    loop.Run(recipe(), str(tmp_path / "0"), seed=0).go(3)
    loop.Run(recipe(), str(tmp_path / "1"), seed=1).go(3)
    assert not same(torch.load(tmp_path / "0" / "last.pt")["net"], torch.load(tmp_path / "1" / "last.pt")["net"])
    with pytest.raises(loop.TrainingError, match="begun with seed 0, not 1"):
        loop.Run(recipe(), str(tmp_path / "0"), seed=1, resume=True)
    with pytest.raises(loop.TrainingError, match="--resume"):
        loop.Run(recipe(), str(tmp_path / "0"))


def test_without_a_better_figure_the_last_weights_and_figures_count(tmp_path):
    run = loop.Run(recipe(validate=lambda net: {"dice": 0.3}), str(tmp_path))
    run.go()
    weights, found, file = run.result()
    assert file == "weights.pt" and found == {"step": 12, "dice": 0.3} and same(weights, loop.weights_of(run.net))


@pytest.mark.parametrize(
    "change, said",
    [({"steps": 24}, "steps 12, not 24"), ({"epoch": 4}, "epoch 3, not 4"), ({"settings": {"rate": 0.1}}, "rate 0.02, not 0.1"),
     ({"settings": {"rate": 0.02, "method": "x"}}, "method None, not x"), ({}, None)],
)  # fmt: skip
def test_goes_on_only_as_it_was_begun(tmp_path, change, said):
    first = recipe()
    first.settings = {"rate": 0.02}
    loop.Run(first, str(tmp_path)).go(3)
    mine = recipe()
    for key, value in {"settings": first.settings, **change}.items():
        setattr(mine, key, value)
    if said is None:
        assert loop.Run(mine, str(tmp_path), resume=True).done == 3
        with pytest.raises(loop.TrainingError, match="precision torch.float32, not torch.bfloat16"):
            loop.Run(mine, str(tmp_path), mixed=True, resume=True)
        return
    with pytest.raises(loop.TrainingError, match=f"begun with {said}"):
        loop.Run(mine, str(tmp_path), resume=True)


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = str(tmp_path / "last.pt")
    loop.save(path, {"a": 1})

    def torn(value, target):
        with open(target, "wb") as file:
            file.write(b"half")
        raise Killed

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(Killed):
        loop.save(path, {"a": 2})
    assert torch.load(path) == {"a": 1}


def test_best_checkpoint_is_that_of_the_best_figure(tmp_path):
    figures, seen = iter([0.5, 0.9, 0.7, 0.8]), []

    def validate(net):
        assert not net.training
        seen.append({key: value.clone() for key, value in net.state_dict().items()})
        return {"roc_auc": next(figures)}

    run = loop.Run(recipe(validate=validate, better="roc_auc"), str(tmp_path))
    run.go()
    weights, found, file = run.result()
    assert len(seen) == 4 and same(weights, seen[1]) and file == "best.pt"
    assert found == {"step": 6, "roc_auc": 0.9}, "figures of other weights"
    assert json.loads((tmp_path / "figures.json").read_text()) == {"step": 12, "roc_auc": 0.8}


def test_rate_follows_the_schedule(tmp_path):
    run = loop.Run(recipe(rate=lambda step: 0.5 if step < 2 else 0.0), str(tmp_path))
    run.go(2)
    before = {key: value.clone() for key, value in run.net.state_dict().items() if key.endswith("weight")}
    run.go(3)
    assert same(before, {key: value for key, value in run.net.state_dict().items() if key.endswith("weight")})
    assert run.optimizer.param_groups[0]["lr"] == 0


def test_mixed_precision_computes_in_16_bits_and_keeps_32_bit_weights(tmp_path):
    kinds = set()
    mine = recipe()
    mine.net[0].register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    run = loop.Run(mine, str(tmp_path), mixed=True)
    assert run.go()[-1] < 0.75
    assert kinds == {torch.bfloat16} and all(p.dtype == torch.float32 for p in run.net.parameters())
    assert not run.precision.scaler.is_enabled(), "gradients are scaled for float16 only"


def test_on_a_gpu_gradients_are_scaled(monkeypatch):
    made = []
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda enabled: made.append(enabled))
    assert loop.Precision("cuda:0", True).type == torch.float16
    loop.Precision("cuda", False), loop.Precision("cpu", True)
    assert made == [True, False, False]


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    mine = recipe()
    mine.loss = lambda net, b: {"loss": net(b["x"]).sum() * float("nan")}
    with pytest.raises(loop.TrainingError, match="loss of step 1 is nan"):
        loop.Run(mine, str(tmp_path)).go()


def test_events_for_tensorboard(tmp_path):
    loop.Run(recipe(), str(tmp_path)).go(6)
    (name,) = os.listdir(tmp_path / "logs")
    blob = (tmp_path / "logs" / name).read_bytes()
    assert name.startswith("events.out.tfevents") and blob.count(b"train/loss") == 6 and blob.count(b"train/rate") == 6
