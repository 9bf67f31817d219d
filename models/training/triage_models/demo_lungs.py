"""The demonstration's recipe of the lung net.

Owns that recipe, on the slices of `data`. Real slices and volumes with their masks; into a third of
them ground glass and consolidation of every extent are pasted, the mask unchanged. Binary cross-entropy.
"""

import numpy as np
import torch
from torch.nn import functional

from . import augment, data
from .loop import Recipe
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
    return {"slices": torch.from_numpy(np.stack(slices)[:, None]), "masks": torch.from_numpy(np.stack(masks)[:, None]).float()}


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


def falling(step, steps, warmup=20):
    """Share of the full learning rate: a warm-up, then half a cosine."""
    return min(1.0, (step + 1) / warmup) * (0.5 + 0.5 * np.cos(np.pi * min(1.0, step / steps))) + 1e-3


def recipe(root, phantoms=None, without_lungs=None, steps=3000, batch_size=8, rate=1e-3):
    """The recipe on the demonstration's data. The held-out figures are printed; no checkpoint is picked by them."""
    groups = [data.lung_slices(root, False), data.volume_slices(data.lung_volumes(root, False))]
    weights = [0.65, 0.35]
    if phantoms:
        groups.append(data.phantom_lungs(phantoms))
        weights = [0.45, 0.33, 0.22]
    if without_lungs:
        groups.append(data.slices_without_lungs(without_lungs))
        weights = [0.85 * w for w in weights] + [0.15]
    sound = [s for s in data.lung_slices(root, True) if s.name not in data.FAULTY_MASKS]

    def validate(net):
        total, mean = evaluate(net, sound)
        return {"slices_volume_dice": total, "slices_mean_dice": mean}

    def loss(net, b):
        logits = net(b["slices"].contiguous(memory_format=torch.channels_last)).float()
        return {"loss": functional.binary_cross_entropy_with_logits(logits, b["masks"])}

    return Recipe(
        net=LungNet().to(memory_format=torch.channels_last),
        batch=lambda rng: batch(rng, groups, weights, batch_size),
        loss=loss,
        optimizer=torch.optim.Adam,
        rate=lambda step: rate * falling(step, steps),
        steps=steps,
        epoch=150,
        validate=validate,
        validated_on="the held-out slices with sound masks",
        settings={"batch": batch_size, "rate": rate},
    )
