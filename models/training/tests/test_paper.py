"""The paper's recipes: composition of the batches, which voxels and series count in which loss, schedules, a step of every method."""

import collections
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from triage_models import layout, loop, paper

HERE = os.path.dirname(__file__)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return layout.made_up(str(tmp_path_factory.mktemp("made-up")), series=9)


@pytest.fixture(scope="module")
def copies(dataset):
    copies = layout.WorkingCopies(dataset, crop=True)
    good, broken = copies.usable(dataset.ids)
    assert len(good) == 9 and not broken
    return copies


def batches(copies, method, count, **changes):
    plan = paper.Plan(**{**vars(paper.PLANS[method]), "batch": 8, **changes})
    groups = paper.groups_of(copies.dataset, method)
    rng = np.random.RandomState(0)
    return [paper.series_batch(rng, copies, groups, paper.GROUPS[method], plan) for _ in range(count)]


def test_plans_are_the_papers():
    steps = {name: plan.steps for name, plan in paper.PLANS.items()}
    assert steps["lungs"] == 16_000 and steps["unet2d"] == steps["unet2d-plus"] == 15_000 and steps["unet3d"] == 10_000
    assert steps["resnet50"] == steps["multitask-spatial-1"] == steps["multitask-latent"] == 30_000
    for method, at, want in (
        ("lungs", 7_999, 1e-3), ("lungs", 8_000, 1e-4), ("multitask-spatial-1", 23_999, 3e-4), ("multitask-spatial-4", 24_000, 9e-5),
        ("unet2d", 14_999, 3e-4), ("unet3d", 9_999, 0.01),
    ):  # fmt: skip
        assert paper.rate_of(paper.PLANS[method])(at) == pytest.approx(want), (method, at)
    assert paper.PLANS["unet3d"].optimizer is torch.optim.SGD and paper.PLANS["unet3d"].batch == 16


def test_groups(dataset):
    groups = paper.groups_of(dataset, "multitask-spatial-1")
    assert groups == {
        "negative": ["made-up-0", "made-up-3", "made-up-6"],
        "positive without mask": ["made-up-2", "made-up-5", "made-up-8"],
        "positive with mask": ["made-up-1", "made-up-4", "made-up-7"],
    }
    assert list(paper.groups_of(dataset, "unet2d")) == ["positive with mask"]


def test_the_test_set_is_never_trained_on(tmp_path):
    dataset = layout.made_up(str(tmp_path), series=6)
    dataset.write_subset("mosmed-test", ["made-up-0", "made-up-1", "made-up-2"])
    groups = paper.groups_of(dataset, "multitask-spatial-1")
    assert sum(groups.values(), []) == ["made-up-3", "made-up-5", "made-up-4"]


def test_half_of_the_series_have_a_mask(copies):
    share = collections.Counter()
    for batch in batches(copies, "multitask-spatial-1", 60):
        for label, identify, known in zip(batch["label"], batch["identify"], batch["known"].flatten(1).any(1)):
            assert bool(known) != bool(identify), "a series trains one head alone"
            share[(float(label), bool(identify))] += 1 / 480
    assert abs(share[(1.0, False)] - 0.5) < 0.07
    assert abs(share[(0.0, True)] - 0.25) < 0.06 and abs(share[(1.0, True)] - 0.25) < 0.06
    assert set(share) == {(1.0, False), (0.0, True), (1.0, True)}


@pytest.mark.parametrize("method, shares", [("resnet50", (0.5, 0.0)), ("unet2d-plus", (0.5, 0.5)), ("unet2d", (0.0, 1.0))])
def test_shares_of_the_others(copies, method, shares):
    drawn = batches(copies, method, 40)
    negative = np.mean([float((b["label"] == 0).float().mean()) for b in drawn])
    masked = np.mean([float((~b["identify"]).float().mean()) for b in drawn])
    assert abs(negative - shares[0]) < 0.07 and abs(masked - shares[1]) < 0.07


def test_series_are_thinned_and_cropped(copies):
    (batch,) = batches(copies, "multitask-spatial-1", 1, slices=5, crop=(20, 30))
    assert batch["slices"].shape == (8, 5, 1, 20, 30) and (batch["sizes"] == torch.tensor([5, 20, 30])).all()
    for count in (5, 31, 32, 33, 63, 64, 65, 300):
        for seed in range(20):
            kept = range(count)[paper.thin(np.random.RandomState(seed), count, 32)]
            assert len(kept) == min(count, 32) and kept.step == max(1, count // 32)


def test_lesion_loss_counts_only_known_voxels():
    logits, masks = torch.zeros(1, 2, 1, 2, 2, requires_grad=True), torch.ones(1, 2, 1, 2, 2)
    known = torch.zeros_like(masks, dtype=torch.bool)
    known[0, 0] = True
    paper.entropy_where(logits, masks, known).backward()
    assert (logits.grad[0, 0] != 0).all() and (logits.grad[0, 1] == 0).all()
    assert float(paper.entropy_where(logits, masks, known)) == pytest.approx(np.log(2))
    assert float(paper.entropy_where(logits, masks, known & False)) == 0


def test_identification_loss_leaves_out_series_with_a_mask():
    batch = {"label": torch.tensor([1.0, 0.0, 1.0]), "identify": torch.tensor([True, True, False])}
    logits = torch.zeros(3, 1, requires_grad=True)
    paper.identification_loss(logits, batch).backward()
    assert (logits.grad[:, 0] != 0).tolist() == [True, True, False]


class Flat(torch.nn.Module):
    """Logits that are a parameter each."""

    def __init__(self, shape):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(shape))

    def forward(self, x):
        return self.logits.reshape(x.shape)


def test_empty_masks_of_unet2d_plus_are_known_but_the_padding_is_not():
    shape = (3, 2, 1, 4, 5)
    batch = {
        "slices": torch.zeros(shape), "masks": torch.zeros(shape), "known": torch.zeros(shape, dtype=torch.bool),
        "label": torch.tensor([0.0, 1.0, 0.0]), "sizes": torch.tensor([[2, 4, 5], [2, 4, 5], [1, 3, 4]]),
    }  # fmt: skip
    for loss, counted in ((paper.plus_loss, (40, 0, 12)), (paper.slices_loss, (0, 0, 0))):
        net = Flat(shape)
        loss(net, batch)["loss"].backward()
        touched = net.logits.grad != 0
        assert tuple(int(t.sum()) for t in touched) == counted
    net = Flat(shape)
    paper.plus_loss(net, batch)["loss"].backward()
    assert (net.logits.grad[2, 0, 0, :3, :4] != 0).all()


@pytest.mark.parametrize("method", ["multitask-spatial-1", "multitask-spatial-4", "multitask-latent"])
def test_the_two_losses_add_up_and_reach_their_parts(copies, method):
    torch.manual_seed(0)
    net = paper.net_of(method).train()
    batch = batches(copies, method, 2, batch=6, slices=2, crop=(32, 40))[1]
    assert batch["identify"].any() and batch["known"].any()
    losses = paper.multitask_loss(net, batch)
    assert float(losses["loss"]) == pytest.approx(float(losses["lesions"] + 0.1 * losses["identification"]))
    losses["identification"].backward()
    assert net.identification.hidden.weight.grad.abs().sum() > 0 and net.backbone.stem.weight.grad.abs().sum() > 0
    assert net.lesions[1].conv.weight.grad is None, "identification does not pass the lesion head"


@pytest.mark.parametrize("method", ["multitask-spatial-1", "multitask-spatial-3"])
def test_padding_of_a_batch_is_not_pooled(method):
    net = paper.net_of(method).eval()
    features = torch.zeros(6, net.pooled_size() // 585, *({1: (9, 11), 3: (3, 3)}[net.level]))
    batch = {"slices": torch.zeros(2, 3, 1, 9, 11)}
    features[2] = 5.0  # the third slice of the first series, which has two
    features[3:, :, :, -1] = 7.0  # columns beyond the second series' size
    sizes = torch.tensor([[2, 9, 11], [3, 9, 8]])
    assert float(paper.pooled(net, features, sizes, batch).max()) == 0
    assert float(paper.pooled(net, features, torch.tensor([[3, 9, 11], [3, 9, 11]]), batch).max()) == 7


def test_split_is_stratified_and_repeats():
    groups = {"negative": [f"n{i}" for i in range(656)], "positive without mask": [f"p{i}" for i in range(806)], "positive with mask": ["m"] * 79}
    train, held_out = paper.split(groups, 30, 0)
    assert len(held_out) == 30 and sum(i.startswith("n") for i in held_out) == 13
    assert not set(held_out) & set(sum(train.values(), [])) and len(train["positive with mask"]) == 79
    assert paper.split(groups, 30, 0)[1] == held_out != paper.split(groups, 30, 1)[1]


@pytest.mark.parametrize(
    "labels, scores, want",
    [([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75), ([0, 1], [0.5, 0.5], 0.5), ([1, 1], [0.2, 0.3], None), ([1, 0], [1, 0], 1.0)],
)
def test_roc_auc(labels, scores, want):
    assert paper.roc_auc(labels, scores) == want


def test_a_series_without_lungs_is_left_out(tmp_path):
    dataset = layout.DataSet(str(tmp_path))
    dataset.write("blank", np.zeros((20, 20, 3)), (2, 2, 5), lungs=np.zeros((20, 20, 3)), label=True)
    good, broken = layout.WorkingCopies(dataset, crop=True).usable(["blank"])
    assert not good and broken == {"blank": "no lungs in it"}
    with pytest.raises(loop.TrainingError, match="no usable series of the group `negative`"):
        paper.recipe("resnet50", str(tmp_path))


def test_lungs_are_predicted_where_no_mask_is(tmp_path):
    dataset = layout.made_up(str(tmp_path), series=1)
    os.remove(dataset.path("lungs_masks", "made-up-0", "lungs_mask.npy"))
    copies = layout.WorkingCopies(dataset, crop=True)
    copies.make("made-up-0")
    shape, whole = copies.image("made-up-0").shape, dataset.image("made-up-0").shape
    assert all(a <= b for a, b in zip(shape, whole)) and shape != whole, "not cropped to what the shipped lung net found"


@pytest.mark.parametrize("method", ["lungs", "unet3d", "resnet50", "multitask-spatial-6", "multitask-latent"])
def test_every_kind_of_method_takes_a_step(tmp_path, method):
    recipe = paper.quick_recipe(method, None, str(tmp_path / "data"), steps=1)
    losses = loop.Run(recipe, str(tmp_path / "run")).go()
    assert len(losses) == 1 and np.isfinite(losses[0])
    assert os.path.exists(tmp_path / "run" / "weights.pt")


def test_a_finished_run_is_a_folder_of_the_zoos_format(dataset, tmp_path, monkeypatch):
    from triage_models import train
    from triage_models.interpret import Interpreter

    command = ["train", "unet2d", "--data", dataset.root, "--out", str(tmp_path), "--steps", "2", "--batch", "1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", command)
    train.main()
    card = (tmp_path / "unet2d" / "card.toml").read_text()
    for different in ("Not the paper's recipe, but with steps 2 instead of 15000, batch 1 instead of 5, precision float32", 'task = "lesions"'):
        assert different in card, card
    assert re.search(r'^version = "seed-0-[0-9a-f]{8}"$', card, re.M), card
    assert 'how = "not validated; weights: weights.pt, of step 2"' in card and 'all = "Everything."' in card
    (logits,) = Interpreter(str(tmp_path / "unet2d" / "model.onnx"))(torch.zeros(1, 1, 9, 12))
    assert logits.shape == (1, 1, 9, 12)
    with pytest.raises(SystemExit, match="give --resume"):
        train.main()
    monkeypatch.setattr(sys, "argv", command + ["--resume"])
    train.main()
    other = layout.made_up(str(tmp_path / "other"), series=6)
    for change, said in (
        (["--steps", "3"], "steps 2, not 3"), (["--batch", "2"], "batch 1, not 2"), (["--rate", "0.1"], "rate 0.0003, not 0.1"),
        (["--mixed"], "precision"), (["--data", other.root], "data .*made-up.*series"), (["--init", str(tmp_path / "weights.pt")], "init None, not"),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "argv", command + ["--resume", *change])
        with pytest.raises(SystemExit, match=f"begun with {said}"):
            train.main()
    monkeypatch.setattr(sys, "argv", ["train", "unet2d-plus", *command[2:], "--resume"])
    with pytest.raises(SystemExit, match="method unet2d, not unet2d-plus"):
        train.main()


@pytest.mark.parametrize(
    "options, precision, words",
    [
        ([], "torch.float16", "the paper's recipe on data, seed 0"),
        (["--steps", "15000"], "torch.float16", "the paper's recipe on data, seed 0"),
        (["--rate", "0.1"], "torch.float16", "Not the paper's recipe, but with rate 0.1 instead of 0.0003; on data, seed 0"),
        (["--init", "x/w.pt", "--lungs", "l.onnx"], "torch.float16", "Not the paper's recipe, but with first weights w.pt, lung net l.onnx; on data, seed 0"),
        ([], "torch.bfloat16", "Not the paper's recipe, but with precision bfloat16 instead of mixed float16; on data, seed 0"),
    ],
)
def test_a_card_says_the_papers_recipe_only_of_the_papers_recipe(options, precision, words):
    from triage_models import train

    args = train.arguments().parse_args(["unet2d", "--data", "data", "--out", "out", *options])
    assert train.training_of(args, SimpleNamespace(precision=precision)) == words


def test_a_run_does_not_go_on_with_other_series(tmp_path):
    dataset = layout.made_up(str(tmp_path), series=6)
    series = lambda: paper.recipe("unet2d", dataset.root).settings["series"]  # noqa: E731
    first = series()
    assert series() == first
    image = dataset.image("made-up-2")
    layout.write_array(dataset.path("covid_masks", "made-up-2", "late", "covid_mask.npy"), image > 0)
    assert series() != first


def test_the_cards_figures_are_those_of_the_weights_in_the_folder(dataset, tmp_path, monkeypatch):
    from triage_models import train

    figures = iter([0.25, 0.75, 0.5])
    monkeypatch.setitem(paper.PLANS, "lungs", paper.Plan(steps=3, epoch=1, rate=1e-3, batch=1, validation=1))
    monkeypatch.setattr(paper, "validate_lungs", lambda copies, ids: lambda net: {"dice": next(figures)})
    monkeypatch.setattr(sys, "argv", ["train", "lungs", "--data", dataset.root, "--out", str(tmp_path), "--threads", "1"])
    train.main()
    card = (tmp_path / "lungs" / "card.toml").read_text()
    assert "dice = 0.75" in card and "on the run's own 1 validation series; weights: best.pt, of step 2" in card


@pytest.mark.parametrize("method", ["unet2d-plus", "multitask-spatial-1"])
def test_quick_run_shows_a_falling_loss(tmp_path, method):
    command = [sys.executable, "-m", "triage_models.train", method, "--quick", "--threads", "1", "--out", str(tmp_path)]
    run = subprocess.run(command, cwd=os.path.join(HERE, ".."), capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "loss of the first quarter" in run.stdout
    assert "step" in json.loads((tmp_path / "figures.json").read_text())


def test_a_loss_that_does_not_fall_fails():
    from triage_models import train

    with pytest.raises(loop.TrainingError, match="did not fall"):
        train.check_fall([1.0, 0.9, 0.95, 0.93])
    train.check_fall([1.0, 0.9, 0.6, 0.5])
