"""Trains backbone and lesion head of Multitask-Spatial-1: `python -m triage_models.train_multitask`.

Owns the recipe of the lesion task; the identification head is `train_identification`. Each batch
mixes slices labelled by radiologists, pseudo-labelled slices (low weight), healthy slices (empty
mask) and healthy slices with synthetic opacities (exact mask), all cropped to the lungs.
"""

import argparse
import json
import os
import time

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from . import augment, data
from .nets import MultitaskSpatial
from .train_lungs import dice

# Rows and columns of a batch's canvas, drawn evenly: odd sizes for the reason given in `train_lungs`.
ROWS, COLUMNS = (96, 150), (128, 184)
# Of each source: chance in a batch, weight in the loss, and weight of a diseased voxel against a healthy one.
# The last is over 1 where the truth is a reader's opinion, so that the best Dice comes near the paper's threshold, 0.2,
# and under 1 for phantoms, whose truth is exact: at 0.2 their soft edges would else count as lesion.
SOURCES = {
    "doctor": (0.36, 1.0, 2.5),
    "pseudo": (0.15, 0.3, 2.0),
    "healthy": (0.2, 1.0, 1.0),
    "synthetic": (0.15, 0.7, 1.0),
    "phantom": (0.22, 1.0, 0.6),
}


def crop_to_lungs(rng, hu, lungs, margin=0.2):
    """Crops to the lungs' box with a random margin on each side, as slices of a 3-D box have."""
    slices = []
    for axis in (0, 1):
        inside = np.flatnonzero(lungs.any(axis=1 - axis))
        start, stop = inside[0], inside[-1] + 1
        room = margin * (stop - start)
        start = max(0, int(start - rng.uniform(0, room)))
        slices.append(slice(start, int(stop + rng.uniform(0, room))))
    return hu[tuple(slices)], lungs[tuple(slices)]


def draw(rng, sources, size):
    """One training slice: (window [H, W], lesion mask [H, W], weight, weight of diseased voxels)."""
    names = list(sources)
    chances = np.array([sources[n][1] for n in names])
    name = names[rng.choice(len(names), p=chances / chances.sum())]
    samples, _, weight, positive = sources[name]
    sample = samples[rng.randint(len(samples))]
    if name in ("healthy", "synthetic"):
        hu, lungs = crop_to_lungs(rng, sample.hu, sample.mask)
        hu, (lungs,) = augment.geometry(rng, hu, [lungs], sample.pixel_mm, size, quarter=0.1, edge=0.5)
        mask = np.zeros_like(lungs)
        if name == "synthetic":
            hu, mask = augment.paste_lesions(rng, hu, lungs)
    else:
        quarter = 0.0 if name == "phantom" else 0.3
        hu = sample.hu.astype(np.float32)
        hu, (mask,) = augment.geometry(
            rng, hu, [sample.mask], sample.pixel_mm, size, 25.0, 1.3, prone=0.2, quarter=quarter, edge=0.5
        )
    return data.window(augment.intensity(rng, hu)), mask, weight, positive


def batch(rng, sources, count):
    """A batch of one random canvas size: slices, masks [N, 1, H, W] and weights [N, 2]."""
    size = rng.randint(*ROWS), rng.randint(*COLUMNS)
    drawn = [draw(rng, sources, size) for _ in range(count)]
    slices = torch.from_numpy(np.stack([d[0] for d in drawn])[:, None])
    masks = torch.from_numpy(np.stack([d[1] for d in drawn])[:, None]).float()
    return slices, masks, torch.tensor([d[2:] for d in drawn], dtype=torch.float32)


def lesion_loss(logits, masks, weights):
    """Weighted cross-entropy plus half a soft Dice over the batch."""
    weight, positive = (w[:, None, None, None] for w in weights.unbind(1))
    each = weight * (1 + (positive - 1) * masks)
    entropy = functional.binary_cross_entropy_with_logits(logits, masks, each)
    p = torch.sigmoid(logits)
    overlap, total = (weight * p * masks).sum(), (weight * (p + masks)).sum()
    return entropy + 0.5 * (1 - (2 * overlap + 1) / (total + 1))


def probability(net, sample):
    """The lesion probability of a sample at its own resolution, computed on the 2 mm grid."""
    factor = sample.pixel_mm / data.SPACING_MM
    small = data.window(ndimage.zoom(sample.hu, factor, order=1))
    net.eval()
    with torch.no_grad():
        small = torch.from_numpy(small)[None, None].to(next(net.parameters()).device)
        p = torch.sigmoid(net(small)[1])[0, 0].cpu().numpy()
    return ndimage.zoom(p, [n / m for n, m in zip(sample.hu.shape, p.shape)], order=1)


def evaluate(net, samples):
    """Mean Dice over slices at the thresholds 0.2 and 0.5."""
    found = [probability(net, s) for s in samples]
    return {f"dice_{t}": float(np.mean([dice(s.mask, p >= t) for s, p in zip(samples, found)])) for t in (0.2, 0.5)}


def healthy_slices(root):
    """Slices with lungs of the lung data, training part, that count as free of lesions."""
    samples = data.lung_slices(root, False) + data.volume_slices(data.lung_volumes(root, False))
    return [s for s in samples if s.mask.sum() > 400]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--out", default="runs/multitask")
    parser.add_argument("--phantoms", help="phantoms packed by triage_models.phantoms")
    parser.add_argument("--resume", help="checkpoint to start from")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: the batches are still made on the processor")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = np.random.RandomState(args.seed)
    os.makedirs(args.out, exist_ok=True)

    healthy = healthy_slices(args.data)
    groups = {
        "doctor": data.lesion_slices(args.data, "doctor_train"),
        "pseudo": data.lesion_slices(args.data, "pseudo_train"),
        "healthy": healthy,
        "synthetic": healthy,
    }
    if args.phantoms:
        groups["phantom"] = data.phantom_lesions(args.phantoms)
    sources = {name: (groups[name],) + SOURCES[name] for name in groups}
    test = data.lesion_slices(args.data, "doctor_test")

    net = MultitaskSpatial().to(args.device, memory_format=torch.channels_last)
    if args.resume:
        net.load_state_dict(torch.load(args.resume, map_location=args.device))
    optimizer = torch.optim.Adam(net.parameters(), args.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 20) * (0.5 + 0.5 * np.cos(np.pi * min(1.0, step / args.steps))) + 1e-3,
    )
    started, losses = time.time(), []
    for step in range(1, args.steps + 1):
        net.train()
        slices, masks, weights = (t.to(args.device) for t in batch(rng, sources, args.batch))
        loss = lesion_loss(net(slices.contiguous(memory_format=torch.channels_last))[1], masks, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % 20 == 0:
            print(f"step {step} loss {np.mean(losses[-20:]):.4f} {time.time() - started:.0f} s", flush=True)
        if step % 200 == 0 or step == args.steps:
            quality = {"step": step, "seconds": round(time.time() - started), **evaluate(net, test)}
            print(json.dumps(quality), flush=True)
            torch.save({k: v.cpu() for k, v in net.state_dict().items()}, os.path.join(args.out, "last.pt"))
            with open(os.path.join(args.out, "quality.json"), "w") as file:
                json.dump(quality, file)


if __name__ == "__main__":
    main()
