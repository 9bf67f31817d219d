"""Data, augmentation and one step of each recipe, on made-up files in the data set's formats."""

import argparse
import importlib
import json
import os
import re
import shlex
import sys

import numpy as np
import pytest
import torch

from triage_models import augment, cards, data, demo_lesions, demo_lungs, export, paper, release, train, train_identification


def chest(rng, size):
    """A body with two lungs: (HU, lung mask)."""
    y, x = np.mgrid[-1:1:size * 1j, -1:1:size * 1j]
    hu = np.where((x / 0.9) ** 2 + (y / 0.7) ** 2 < 1, 40, -1000)
    lungs = ((np.abs(x) - 0.4) / 0.3) ** 2 + (y / 0.5) ** 2 < 1
    hu = np.where(lungs, -850, hu) + rng.randint(-20, 20, hu.shape)
    return hu.astype(np.int16), lungs


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.RandomState(0)
    pairs = [chest(rng, 128) for _ in range(10)]
    np.savez(
        folder / "lung_slices.npz",
        hu=np.stack([p[0] for p in pairs]),
        lung=np.stack([p[1] for p in pairs]),
        name=np.array([f"ID_{i:04}" for i in range(8)] + ["ID_0038_Z_0148", "ID_0079_Z_0072"]),
    )
    volumes = {}
    for name in ("id001", "id004"):
        hu, lungs = chest(rng, 64)
        empty = np.zeros_like(lungs)
        # Stored feet first and turned; the first slice has no lung.
        volumes[name + "_hu"] = np.rot90(np.stack([np.where(lungs, 40, hu)] + [hu] * 7, axis=2), -1)
        volumes[name + "_lung"] = np.rot90(np.stack([empty] + [lungs] * 7, axis=2), -1)
        volumes[name + "_spacing_mm"] = np.array([3.0, 3.0, 5.0], np.float32)
    np.savez(folder / "lung_volumes.npz", **volumes)
    for name, keys in (("doctor_train", ["0", "1"]), ("doctor_test", ["6"]), ("pseudo_train", ["Data-1_coronacases_1_3"])):
        images = {}
        for key in keys:
            hu, lungs = chest(rng, 96)
            hu[hu < -930] = 40  # cropped to the lungs: no air around the body
            hu[40:56, 20:30] = -400
            images[key + "_image"] = np.rot90(np.clip((hu + 1100) / 5.5, 0, 255).astype(np.uint8))[:, 20:76]
            images[key + "_lesion"] = np.rot90((hu > -500) & (hu < -300))[:, 20:76]
        np.savez(folder / f"lesion_{name}.npz", **images)
    hu, lungs = chest(rng, 100)
    labels = lungs.astype(np.uint8)
    labels[40:60, 15:35] |= 4 * labels[40:60, 15:35]
    packed = {}
    for name in ("1", "2"):
        packed[name + "_hu"] = np.stack([hu] * 8, axis=2)
        packed[name + "_labels"] = np.stack([labels if name == "1" else lungs.astype(np.uint8)] * 8, axis=2)
        packed[name + "_slice_mm"] = 5.0
    np.savez(folder / "phantoms.npz", **packed)
    return str(folder)


def test_hold_out_is_fixed_and_disjoint(root):
    train = {s.name for s in data.lung_slices(root, False)}
    test = {s.name for s in data.lung_slices(root, True)}
    assert test == {"ID_0004", "ID_0079_Z_0072"} and not train & test
    assert "ID_0038_Z_0148" not in train, "a faulty mask was trained on"
    assert [v.name for v in data.lung_volumes(root, True)] == ["id004"]
    assert [v.name for v in data.lung_volumes(root, False)] == ["id001"]


def test_volumes_are_upright_and_head_first(root):
    (volume,) = data.lung_volumes(root, True)
    hu, lungs = chest(np.random.RandomState(1), 64)
    assert np.array_equal(volume.lungs[:, :, 0], lungs) and not volume.lungs[:, :, -1].any()
    assert abs(volume.hu[:, :, 0] - hu).max() < 60


def test_pictures_come_back_to_hu(root):
    for name in ("doctor_train", "doctor_test", "pseudo_train"):
        for sample in data.lesion_slices(root, name):
            assert sample.hu.shape[1] > sample.hu.shape[0], "not upright"
            lung = np.median(sample.hu[sample.hu < -700])
            assert abs(lung + 870) < 40
            assert -520 < sample.hu[sample.mask].mean() < -320


@pytest.mark.parametrize("seed", range(5))
def test_pasted_lesions_stay_in_the_lungs_and_are_denser(seed):
    rng = np.random.RandomState(seed)
    hu, lungs = chest(rng, 128)
    hu = hu.astype(np.float32)
    changed, lesions = augment.paste_lesions(rng, hu, lungs)
    assert not (lesions & ~lungs).any()
    far = ~lungs
    far[1:-1, 1:-1] &= ~(lungs[:-2, 1:-1] | lungs[2:, 1:-1] | lungs[1:-1, :-2] | lungs[1:-1, 2:])
    assert np.array_equal(changed[far], hu[far]), "something changed outside the lungs"
    if lesions.sum() > 50:
        assert changed[lesions].mean() > hu[lesions].mean() + 60


@pytest.mark.parametrize("extent", [0.05, 0.3, 0.8])
def test_extent_of_a_lesion_is_what_was_asked(extent):
    rng = np.random.RandomState(3)
    _, lungs = chest(rng, 128)
    mask = augment.lesion_mask(rng, lungs, extent, 8)
    assert abs(mask.sum() / lungs.sum() - extent) < 0.02


def test_augmentation_repeats_with_its_seed(root):
    groups = [data.lung_slices(root, False)]
    first, again = (demo_lungs.batch(np.random.RandomState(5), groups, [1.0], 2) for _ in range(2))
    assert torch.equal(first["slices"], again["slices"]) and torch.equal(first["masks"], again["masks"])
    assert 0 <= float(first["slices"].min()) and float(first["slices"].max()) <= 1


def test_unet2d_sees_the_sick_alone_and_unet2d_plus_half_and_half(root):
    phantoms = os.path.join(root, "phantoms.npz")
    groups = demo_lesions.groups_of("unet2d", root, phantoms)
    assert set(groups) == {"doctor", "pseudo", "synthetic", "sick_phantom"}
    assert {s.name.split("_")[0] for s in groups["sick_phantom"][0]} == {"1"}
    plus = demo_lesions.groups_of("unet2d-plus", root, phantoms)
    assert {s.name.split("_")[0] for s in plus["healthy_phantom"][0]} == {"2"}
    assert sum(plus[name][1] for name in ("healthy", "healthy_phantom")) == pytest.approx(0.5)
    assert sum(group[1] for group in plus.values()) == pytest.approx(1.0)
    rng = np.random.RandomState(0)
    healthy = {name: plus[name] for name in ("healthy", "healthy_phantom")}
    assert float(demo_lesions.batch(rng, healthy, 4)["masks"].max()) == 0


def test_positive_weight_raises_the_cost_of_a_miss():
    logits, masks = torch.full((1, 1, 4, 4), -2.0), torch.ones(1, 1, 4, 4)
    plain, raised = (demo_lesions.lesion_loss(logits, masks, torch.tensor([[1.0, w]])) for w in (1.0, 3.0))
    assert float(raised) > float(plain)


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
    module.main()


def test_the_demonstrations_nets_train_a_step(root, tmp_path, monkeypatch):
    phantoms = os.path.join(root, "phantoms.npz")
    common = ["--data", root, "--steps", 1, "--batch", 2, "--threads", 1, "--phantoms", phantoms]
    run(train, monkeypatch, "lungs", "--out", tmp_path / "lungs", *common)
    assert 0 <= json.loads((tmp_path / "lungs" / "figures.json").read_text())["slices_volume_dice"] <= 1
    card = (tmp_path / "lungs" / "lungs" / "card.toml").read_text()
    assert "Not the demonstration's recipe, but with steps 1, batch 2; on" in card and "on the held-out slices with sound masks; weights: weights.pt, of step 1" in card
    assert (tmp_path / "lungs" / "lungs" / "model.onnx").exists()
    run(train, monkeypatch, "multitask-spatial-1", "--out", tmp_path / "multitask", *common)
    # Its identification head is random: nothing that loads may be left.
    assert not (tmp_path / "multitask" / "multitask-spatial-1").exists()
    run(train, monkeypatch, "unet2d", "--out", tmp_path / "unet2d", "--init", tmp_path / "lungs" / "weights.pt", *common)
    before = torch.load(tmp_path / "multitask" / "weights.pt")
    run(
        train_identification, monkeypatch, "multitask-spatial-4", "--data", root, "--backbone", tmp_path / "multitask" / "weights.pt",
        "--phantoms", phantoms, "--out", tmp_path / "identification", "--rounds", 1, "--phantom-views", 1, "--steps", 2, "--threads", 1,
    )
    after = torch.load(tmp_path / "identification" / "weights.pt")
    assert all(torch.equal(before[key], after[key]) for key in before if not key.startswith("identification")), "only the head may learn"
    assert after["identification.hidden.weight"].shape == (1024, 32 * 585)


def test_methods_that_the_demonstrations_data_cannot_train(root, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="no volumes with a diagnosis"):
        run(train, monkeypatch, "resnet50", "--data", root, "--out", tmp_path)


def test_release_writes_what_it_measures(root, tmp_path):
    torch.manual_seed(0)
    torch.save(paper.net_of("unet2d").state_dict(), tmp_path / "weights.pt")
    figures = release.release("unet2d", str(tmp_path / "weights.pt"), root, str(tmp_path), {"steps": "none"})
    assert 0 <= figures["lesion_doctor_test_mean_dice_0_2"] <= 1
    card = (tmp_path / "unet2d" / "card.toml").read_text()
    assert f"lesion_doctor_test_mean_dice_0_2 = {figures['lesion_doctor_test_mean_dice_0_2']}" in card and 'steps = "none"' in card


def test_the_zoos_cards_say_what_the_code_says():
    import tomllib

    zoo = os.path.join(os.path.dirname(__file__), "..", "..", "zoo")
    weights = {name for name in os.listdir(zoo) if os.path.exists(os.path.join(zoo, name, "model.onnx"))}
    assert weights == set(cards.DATA), "weights without words, or words without weights"
    for method in weights:
        with open(os.path.join(zoo, method, "card.toml"), "rb") as file:
            card = tomllib.load(file)
        assert (card["data"], card["not_measured"], card["licence"]) == (cards.DATA[method], cards.NOT_MEASURED[method], cards.LICENCE), method
        if method != "lungs":
            held_out = card["data"]["held_out"]
            assert "the weight of diseased voxels was raised once after its figures were seen" in held_out, f"{method} hides the look at its test set"


def documents():
    """The commands of models/README.md, as lists of words."""
    with open(os.path.join(os.path.dirname(__file__), "..", "..", "README.md"), encoding="utf-8") as file:
        blocks = re.findall(r"```sh\n(.*?)```", file.read(), re.S)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words for words in lines if words[:2] == ["python", "-m"]]


def test_the_readmes_commands_exist(monkeypatch):
    class Parsed(Exception):
        pass

    real, commands = argparse.ArgumentParser.parse_args, documents()
    assert {words[2].rpartition(".")[2] for words in commands} >= {"prepare", "train", "train_identification", "release", "phantoms", "convert"}

    def parse(parser, *arguments):
        real(parser, *arguments)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    for words in commands:
        monkeypatch.setattr(sys, "argv", words[2:])
        with pytest.raises(Parsed):
            importlib.import_module(words[2]).main()


def test_the_changelog_claims_no_weights_that_are_not_there():
    root = os.path.join(os.path.dirname(__file__), "..", "..", "..")
    with open(os.path.join(root, "CHANGELOG.md"), encoding="utf-8") as file:
        lines = [line.partition(";")[0] for line in file if line.startswith("- Weights of")]
    claimed = set(re.findall("`(.*?)`", " ".join(lines)))
    assert claimed and claimed <= set(cards.DATA)


def test_every_method_has_a_card_or_no_folder(tmp_path):
    shipped = os.path.join(os.path.dirname(__file__), "..", "..", "zoo")
    for method in cards.WITHOUT_WEIGHTS:
        release.release_untrained(method, str(tmp_path))
        written = (tmp_path / method / "card.toml").read_text()
        with open(os.path.join(shipped, method, "card.toml"), encoding="utf-8") as file:
            assert file.read() == written, "the zoo's card is not what release writes"
    assert not set(cards.DATA) & set(cards.WITHOUT_WEIGHTS)
    assert set(cards.DATA) | set(cards.WITHOUT_WEIGHTS) <= set(export.METHODS) and set(cards.DATA) == set(cards.NOT_MEASURED)
