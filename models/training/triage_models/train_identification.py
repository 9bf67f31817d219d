"""Trains a demonstration's identification head on a frozen backbone: `python -m triage_models.train_identification METHOD`.

Owns the volumes that the head learns from and its recipe. There are too few whole volumes with a
diagnosis, so it learns from pairs: the same CT as it is (negative), with ground glass and
consolidation spread through both lungs (positive), and with other opacities, such as one lobar
consolidation, nodules or a dependent band (negative). Real lesions of the pseudo-labelled pictures are put
into slices without (positive), and as their counterpart healthy parts of those pictures (negative).
Positives and negatives so share their source, and the file format gives nothing away. A
demonstration: no accuracy follows from it.
"""

import argparse
import os
import time

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from . import augment, data, from_zoo, loop
from .nets import MultitaskLatent, MultitaskSpatial

# Slices of an example: maxima grow with their number, so it varies.
SLICES = (16, 24, 40, 56)
HELD_OUT_PHANTOM_EVERY = 5


def resize(volume, shape, order=1):
    return ndimage.zoom(volume.astype(np.float32), [m / n for n, m in zip(volume.shape, shape)], order=order)


def cropped_volume(rng, hu, lungs, spacing_mm):
    """Lung box of a volume, near 2 mm in plane and thinned, with random scale and mirroring."""
    inside = [np.flatnonzero(lungs.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = tuple(slice(int(i[0]), int(i[-1]) + 1) for i in inside)
    hu, lungs = hu[box], lungs[box]
    keep = np.linspace(0, hu.shape[2] - 1, rng.choice(SLICES)).round().astype(int)
    hu, lungs = hu[:, :, keep], lungs[:, :, keep]
    scale = rng.uniform(0.85, 1.15)
    shape = [max(16, int(n * s / 2.0 * scale)) for n, s in zip(hu.shape, spacing_mm)][:2] + [len(keep)]
    hu, lungs = resize(hu, shape), resize(lungs, shape) >= 0.5
    return (hu[:, ::-1], lungs[:, ::-1]) if rng.rand() < 0.5 else (hu, lungs)


def stacked_slices(rng, samples):
    """A chest made of slices of different patients, each brought to one common lung box."""
    shape = (rng.randint(90, 131), rng.randint(125, 166))
    planes, masks = [], []
    for sample in (samples[i] for i in rng.choice(len(samples), rng.choice(SLICES))):
        rows, columns = (np.flatnonzero(sample.mask.any(axis=1 - axis)) for axis in (0, 1))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        planes.append(resize(sample.hu[box], shape))
        masks.append(resize(sample.mask[box], shape) >= 0.5)
    return np.stack(planes, axis=2), np.stack(masks, axis=2)


def transplant(rng, hu, lungs, pictures, sick):
    """Puts lesions of one volume's pictures into a stack, or else, mirrored, healthy lung of them."""
    members = pictures[rng.randint(len(pictures))]
    hu, share = hu.copy(), rng.uniform(0.2, 1.0)
    for k in range(hu.shape[2]):
        if rng.rand() > share:
            continue
        sample = members[rng.randint(len(members))]
        picture, mask = resize(sample.hu, hu.shape[:2]), resize(sample.mask, hu.shape[:2]) >= 0.5
        if not sick:
            mask = mask[:, ::-1] & ~ndimage.binary_dilation(mask, iterations=3) & (picture < -600)
        alpha = ndimage.gaussian_filter((mask & lungs[:, :, k]).astype(np.float32), 0.7)
        hu[:, :, k] += alpha * (np.maximum(hu[:, :, k], picture) - hu[:, :, k])
    return hu


def spread_lesions(rng, hu, lungs):
    """Positive: peripheral ground glass, mostly in both lungs, from 1 % up, part of it consolidated."""
    middle = lungs.shape[1] // 2
    spared = rng.randint(2) if rng.rand() < 0.15 else None
    for index, side in enumerate((slice(0, middle), slice(middle, None))):
        region = np.zeros_like(lungs)
        region[:, side] = lungs[:, side]
        if region.sum() < 200 or index == spared:
            continue
        mask = augment.lesion_mask(rng, region, np.exp(rng.uniform(np.log(0.01), np.log(0.9))), rng.uniform(4, 20))
        hu = augment.opacity(rng, hu, mask, solid=False)
        if rng.rand() < 0.6 and mask.sum() > 100:
            hu = augment.opacity(rng, hu, augment.lesion_mask(rng, mask, rng.uniform(0.1, 0.5), 10), solid=True)
    return hu


def other_opacity(rng, hu, lungs):
    """Negative: a lobar consolidation, nodules, or a dependent band as in atelectasis."""
    points = np.argwhere(lungs)
    grid = np.indices(lungs.shape).astype(np.float32)
    # Slices are some 10 mm apart, pixels 2 mm.
    stretch = np.array([1.0, 1.0, 5.0], np.float32)

    def ball(radius):
        centre = points[rng.randint(len(points))]
        distance = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, stretch))
        return lungs & (distance <= radius**2)

    kind = rng.randint(3)
    if kind == 0:
        mask = ball(rng.uniform(14, 30))
    elif kind == 1:
        mask = np.any([ball(rng.uniform(1.5, 6)) for _ in range(rng.randint(1, 9))], axis=0)
    else:
        depth = grid[0] + rng.uniform(0, 20) * (grid[2] / lungs.shape[2])
        mask = lungs & (depth >= np.quantile(depth[lungs], rng.uniform(0.85, 0.97)))
    return augment.opacity(rng, hu, mask, solid=True) if mask.any() else hu


def noisy(rng, hu):
    hu = hu * rng.uniform(0.97, 1.03) + rng.normal(0, 10)
    return hu + rng.uniform(0, 35) * rng.standard_normal(hu.shape).astype(np.float32)


def bare(rng, hu, lungs):
    return hu


VARIANTS = ((bare, 0), (spread_lesions, 1), (other_opacity, 0), (spread_lesions, 1))


def examples(rng, args):
    """Yields (source, held out, label, HU volume) without end of patience: `args.rounds` times all sources."""
    slices = [s for s in data.lung_slices(args.data, False) if s.mask.mean() > 0.08]
    volumes = [(v, False) for v in data.lung_volumes(args.data, False)] + [(v, True) for v in data.lung_volumes(args.data, True)]
    by_volume = {}
    for sample in data.lesion_slices(args.data, "pseudo_train"):
        if sample.mask.mean() > 0.004:
            by_volume.setdefault(sample.name.rsplit("_", 1)[0], []).append(sample)
    pictures = [by_volume[name] for name in sorted(by_volume)]
    for _ in range(args.rounds):
        for volume, test in volumes:
            for make, label in VARIANTS:
                hu, lungs = cropped_volume(rng, volume.hu, volume.lungs, volume.spacing_mm)
                yield "volume", test, label, make(rng, hu, lungs)
        for _ in range(2):
            for make, label in VARIANTS:
                hu, lungs = stacked_slices(rng, slices)
                yield "stack", False, label, make(rng, hu, lungs)
        for label in (0, 1) * args.picture_views:
            hu, lungs = stacked_slices(rng, slices)
            yield "picture", False, label, transplant(rng, hu, lungs, pictures, sick=bool(label))
    for index, phantom in enumerate(data.phantoms(args.phantoms)):
        lungs, sick = phantom.labels > 0, float((phantom.labels >= 4).sum()) / max(1, int((phantom.labels > 0).sum()))
        test = index % HELD_OUT_PHANTOM_EVERY == 0
        for _ in range(args.phantom_views):
            hu, mask = cropped_volume(rng, phantom.hu, lungs, (1.0, 1.0, phantom.slice_mm))
            yield "phantom", test, int(sick > 0), hu
            if sick == 0:
                hu, mask = cropped_volume(rng, phantom.hu, lungs, (1.0, 1.0, phantom.slice_mm))
                yield "phantom", test, 0, other_opacity(rng, hu, mask)


def pyramid_of(net, hu):
    """Pooled features of a volume in HU."""
    small = torch.from_numpy(np.ascontiguousarray(data.window(hu).transpose(2, 0, 1)))[:, None]
    with torch.no_grad():
        parts = [small[k : k + 4].contiguous(memory_format=torch.channels_last) for k in range(0, len(small), 4)]
        return net.pool(torch.cat([net.features(net.backbone.maps(part)) for part in parts]))


def collect(net, args):
    """Pooled features, labels, held-out flags and sources of all examples, computed once."""
    rng = np.random.RandomState(args.seed)
    rows, labels, tests, names = [], [], [], []
    started = time.time()
    for name, test, label, hu in examples(rng, args):
        rows.append(pyramid_of(net, noisy(rng, hu)))
        labels.append(label), tests.append(test), names.append(name)
        if len(rows) % 20 == 0:
            print(f"{len(rows)} volumes {time.time() - started:.0f} s", flush=True)
    return torch.stack(rows), torch.tensor(labels, dtype=torch.float32), np.array(tests), np.array(names)


def report(head, features, labels, tests, names):
    """Cross-entropy and share on the right side of 0.5, by source, held out or not."""
    head.eval()
    with torch.no_grad():
        logits = head(features)[:, 0]
    for name in np.unique(names):
        for test in (False, True):
            pick = torch.from_numpy((names == name) & (tests == test))
            if pick.any():
                right = ((logits[pick] > 0) == (labels[pick] > 0)).float().mean()
                entropy = functional.binary_cross_entropy_with_logits(logits[pick], labels[pick])
                print(f"{name}{' held out' if test else ''}: {int(pick.sum())} volumes, right {right:.3f}, entropy {entropy:.3f}")


def fit(head, features, labels, steps, rate=3e-4):
    """Adam with weight decay on random batches; features jittered by 5 % of their spread."""
    spread = features.std(dim=0, keepdim=True)
    optimizer = torch.optim.AdamW(head.parameters(), rate, weight_decay=0.05)
    head.train()
    for _ in range(steps):
        pick = torch.randint(len(features), (32,))
        x = features[pick] + 0.05 * spread * torch.randn(32, features.shape[1])
        # Labels short of certainty: the head must not shout.
        loss = functional.binary_cross_entropy_with_logits(head(x)[:, 0], 0.05 + 0.9 * labels[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def make(method):
    """The net of a multitask method."""
    return MultitaskLatent() if method == "multitask-latent" else MultitaskSpatial(int(method.rpartition("-")[2]))


def backbone_of(method, path):
    """The method's net with backbone and lesion head of Multitask-Spatial-1: a checkpoint, or a `model.onnx` of the zoo."""
    net = make(method)
    if path.endswith(".onnx"):
        return from_zoo.load(net, path)
    state = {key: value for key, value in loop.read_weights(path)[0].items() if not key.startswith("identification.")}
    net.load_state_dict(state, strict=False)
    return net.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", help="multitask-spatial-1 to -7, or multitask-latent")
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", required=True, help="weights of `train multitask-spatial-1`, or its model.onnx")
    parser.add_argument("--phantoms", required=True, help="phantoms packed by triage_models.phantoms")
    parser.add_argument("--out", required=True)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--phantom-views", type=int, default=2)
    parser.add_argument("--picture-views", type=int, default=4)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    os.makedirs(args.out, exist_ok=True)
    net = backbone_of(args.method, args.backbone).to(memory_format=torch.channels_last)
    cache = os.path.join(args.out, "features.npz")
    if os.path.exists(cache):
        packed = np.load(cache)
        features, labels = torch.from_numpy(packed["features"]), torch.from_numpy(packed["labels"])
        tests, names = packed["tests"], packed["names"]
    else:
        features, labels, tests, names = collect(net, args)
        np.savez(cache, features=features.numpy(), labels=labels.numpy(), tests=tests, names=names)
    train = torch.from_numpy(~tests)
    fit(net.identification, features[train], labels[train], args.steps)
    report(net.identification, features, labels, tests, names)
    torch.save(net.state_dict(), os.path.join(args.out, "weights.pt"))


if __name__ == "__main__":
    main()
