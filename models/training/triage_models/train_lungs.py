"""Trains the lung net: `python -m triage_models.train_lungs DATA --out RUN`.

Owns the recipe of the lung net. Real slices and volumes with their masks; into a third of
them ground glass and consolidation of every extent are pasted, the mask unchanged. Binary cross-entropy.
"""

import argparse
import json
import os
import time

import numpy as np
import torch
from torch.nn import functional

from . import augment, data
from .nets import LungNet

# Rows and columns of a batch's canvas, drawn evenly. Odd sizes matter: pooling in ceil mode and resizing to the
# skip's size shift deep features by up to half a cell for a size that is no multiple of 64, and a net that saw none
# such draws the lungs' edges up to a pixel off on them (held-out Dice 0.972 against 0.982 on padded slices).
ROWS, COLUMNS = (136, 192), (152, 200)
PASTE_CHANCE = 0.35
# Slices whose lungs are below this share of the image: apices and bases. There a lung that is all consolidated looks
# like an organ of the abdomen, so lesions leave some air; and gas and meals are put into half of those slices.
SMALL_LUNGS, SMALL_LUNGS_EXTENT, BOWEL_CHANCE = 0.12, 0.6, 0.5


def batch(rng, groups, weights, count):
    """A batch of one random canvas size: (slices [N, 1, H, W], masks [N, 1, H, W])."""
    size = rng.randint(*ROWS), rng.randint(*COLUMNS)
    slices, masks = [], []
    for _ in range(count):
        group = groups[rng.choice(len(groups), p=weights)]
        sample = group[rng.randint(len(group))]
        hu, (mask,) = augment.geometry(rng, sample.hu.astype(np.float32), [sample.mask], sample.pixel_mm, size)
        if rng.rand() < PASTE_CHANCE:
            most = SMALL_LUNGS_EXTENT if mask.mean() < SMALL_LUNGS else 1.0
            hu, _ = augment.paste_lesions(rng, hu, mask, full=0.06, most=most)
        if mask.mean() < SMALL_LUNGS and rng.rand() < BOWEL_CHANCE:
            hu = augment.paste_bowel(rng, hu, mask)
        slices.append(data.window(augment.intensity(rng, hu)))
        masks.append(mask)
    return torch.from_numpy(np.stack(slices)[:, None]), torch.from_numpy(np.stack(masks)[:, None]).float()


def predict(net, slices):
    """Lung probabilities of windowed slices, one at a time."""
    net.eval()
    device = next(net.parameters()).device
    with torch.no_grad():
        return [torch.sigmoid(net(torch.from_numpy(s)[None, None].to(device)))[0, 0].cpu().numpy() for s in slices]


def at_2mm(sample):
    """A sample's slice and mask on the (guessed) 2 mm grid."""
    from scipy import ndimage

    factor = sample.pixel_mm / data.SPACING_MM
    return ndimage.zoom(sample.hu, factor, order=1), ndimage.zoom(sample.mask.astype(np.float32), factor, order=1) >= 0.5


def dice(truth, guess):
    """Dice of two masks; 1 where both are empty."""
    total = truth.sum() + guess.sum()
    return 1.0 if total == 0 else 2.0 * (truth & guess).sum() / total


def evaluate(net, samples):
    """Volume Dice (all voxels of all slices as one volume) and mean Dice over slices with lung."""
    pairs = [at_2mm(s) for s in samples]
    guesses = [p >= 0.5 for p in predict(net, [data.window(hu) for hu, _ in pairs])]
    truths = [mask for _, mask in pairs]
    overlap = sum((t & g).sum() for t, g in zip(truths, guesses))
    total = sum(t.sum() + g.sum() for t, g in zip(truths, guesses))
    mean = np.mean([dice(t, g) for t, g in zip(truths, guesses) if t.any()])
    return float(2 * overlap / max(total, 1)), float(mean)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--out", default="runs/lungs")
    parser.add_argument("--phantoms", help="phantoms packed by triage_models.phantoms")
    parser.add_argument("--without-lungs", help="FOLDER:FIRST-LAST,...: slices of a CT series that show no lung")
    parser.add_argument("--resume", help="checkpoint to start from")
    parser.add_argument("--steps", type=int, default=1800)
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

    groups = [data.lung_slices(args.data, False), data.volume_slices(data.lung_volumes(args.data, False))]
    weights = [0.65, 0.35]
    if args.phantoms:
        groups.append(data.phantom_lungs(args.phantoms))
        weights = [0.45, 0.33, 0.22]
    if args.without_lungs:
        groups.append(data.slices_without_lungs(args.without_lungs))
        weights = [0.85 * w for w in weights] + [0.15]
    test = data.lung_slices(args.data, True)
    sound = [s for s in test if s.name not in data.FAULTY_MASKS]
    test_volumes = data.volume_slices(data.lung_volumes(args.data, True))

    net = LungNet().to(args.device, memory_format=torch.channels_last)
    if args.resume:
        net.load_state_dict(torch.load(args.resume, map_location=args.device))
    optimizer = torch.optim.Adam(net.parameters(), args.rate)
    warmup = 20
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warmup) * (0.5 + 0.5 * np.cos(np.pi * min(1.0, step / args.steps))) + 1e-3,
    )
    started, losses = time.time(), []
    for step in range(1, args.steps + 1):
        net.train()
        slices, masks = (t.to(args.device) for t in batch(rng, groups, weights, args.batch))
        loss = functional.binary_cross_entropy_with_logits(net(slices.contiguous(memory_format=torch.channels_last)), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % 20 == 0:
            print(f"step {step} loss {np.mean(losses[-20:]):.4f} {time.time() - started:.0f} s", flush=True)
        if step % 150 == 0 or step == args.steps:
            quality = {"step": step, "seconds": round(time.time() - started)}
            quality["slices_volume_dice"], quality["slices_mean_dice"] = evaluate(net, sound)
            if step == args.steps:
                quality["all_volume_dice"], quality["all_mean_dice"] = evaluate(net, test)
            if step % 300 == 0 or step == args.steps:
                quality["volume_volume_dice"], _ = evaluate(net, test_volumes)
            print(json.dumps(quality), flush=True)
            torch.save({k: v.cpu() for k, v in net.state_dict().items()}, os.path.join(args.out, "last.pt"))
            with open(os.path.join(args.out, "quality.json"), "w") as file:
                json.dump(quality, file)


if __name__ == "__main__":
    main()
