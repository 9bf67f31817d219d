"""The demonstration's recipes of lesion nets: backbone and lesion head of Multitask-Spatial-1, the 2-D U-Net, 2-D U-Net+.

Owns the recipe of the lesion task on the slices of `data`; the identification head is `train_identification`. Each batch
mixes slices labelled by radiologists, pseudo-labelled slices (low weight), healthy slices (empty
mask) and healthy slices with synthetic opacities (exact mask), all cropped to the lungs.
"""

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from . import augment, data
from .demo_lungs import dice, falling
from .loop import Recipe
from .nets import LungNet, MultitaskSpatial

# Rows and columns of a batch's canvas, drawn evenly: odd sizes for the reason given in `demo_lungs`.
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
# The 2-D U-Net sees patients with lesions only; of 2-D U-Net+ half of the slices are of people without, with empty masks.
POSITIVE = {
    "doctor": (0.48, 1.0, 2.5),
    "pseudo": (0.2, 0.3, 2.0),
    "synthetic": (0.14, 0.7, 1.0),
    "sick_phantom": (0.18, 1.0, 0.6),
}
NEGATIVE = {"healthy": (0.8, 1.0, 1.0), "healthy_phantom": (0.2, 1.0, 1.0)}
METHODS = {
    "multitask-spatial-1": SOURCES,
    "unet2d": POSITIVE,
    "unet2d-plus": {
        name: (chance / 2, weight, positive) for name, (chance, weight, positive) in {**POSITIVE, **NEGATIVE}.items()
    },
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
        quarter = 0.0 if name.endswith("phantom") else 0.3
        hu = sample.hu.astype(np.float32)
        hu, (mask,) = augment.geometry(
            rng, hu, [sample.mask], sample.pixel_mm, size, 25.0, 1.3, prone=0.2, quarter=quarter, edge=0.5
        )
    return data.window(augment.intensity(rng, hu)), mask, weight, positive


def batch(rng, sources, count):
    """A batch of one random canvas size: slices and masks [N, 1, H, W], weights [N, 2]."""
    size = rng.randint(*ROWS), rng.randint(*COLUMNS)
    drawn = [draw(rng, sources, size) for _ in range(count)]
    return {
        "slices": torch.from_numpy(np.stack([d[0] for d in drawn])[:, None]),
        "masks": torch.from_numpy(np.stack([d[1] for d in drawn])[:, None]).float(),
        "weights": torch.tensor([d[2:] for d in drawn], dtype=torch.float32),
    }


def lesion_loss(logits, masks, weights):
    """Weighted cross-entropy plus half a soft Dice over the batch."""
    weight, positive = (w[:, None, None, None] for w in weights.unbind(1))
    each = weight * (1 + (positive - 1) * masks)
    entropy = functional.binary_cross_entropy_with_logits(logits, masks, each)
    p = torch.sigmoid(logits)
    overlap, total = (weight * p * masks).sum(), (weight * (p + masks)).sum()
    return entropy + 0.5 * (1 - (2 * overlap + 1) / (total + 1))


def lesion_logits(net, x):
    """Of either kind of net."""
    found = net(x.contiguous(memory_format=torch.channels_last))
    return found[-1] if isinstance(found, tuple) else found


def probability(net, sample):
    """The lesion probability of a sample at its own resolution, computed on the 2 mm grid."""
    factor = sample.pixel_mm / data.SPACING_MM
    small = data.window(ndimage.zoom(sample.hu, factor, order=1))
    net.eval()
    with torch.no_grad():
        small = torch.from_numpy(small)[None, None].to(next(net.parameters()).device)
        p = torch.sigmoid(lesion_logits(net, small))[0, 0].cpu().numpy()
    return ndimage.zoom(p, [n / m for n, m in zip(sample.hu.shape, p.shape)], order=1)


def evaluate(net, samples):
    """Mean Dice over slices at the thresholds 0.2 and 0.5."""
    found = [probability(net, s) for s in samples]
    return {f"dice_{t}": float(np.mean([dice(s.mask, p >= t) for s, p in zip(samples, found)])) for t in (0.2, 0.5)}


def healthy_slices(root):
    """Slices with lungs of the lung data, training part, that count as free of lesions."""
    samples = data.lung_slices(root, False) + data.volume_slices(data.lung_volumes(root, False))
    return [s for s in samples if s.mask.sum() > 400]


def groups_of(method, root, phantoms):
    """{source: (samples, chance, weight, weight of diseased voxels)} of a method."""
    healthy = healthy_slices(root)
    packed = data.phantom_lesions(phantoms) if phantoms else []
    sick = {s.name.split("_")[0] for s in packed if s.mask.any()}
    samples = {
        "doctor": data.lesion_slices(root, "doctor_train"),
        "pseudo": data.lesion_slices(root, "pseudo_train"),
        "healthy": healthy,
        "synthetic": healthy,
        "phantom": packed,
        "sick_phantom": [s for s in packed if s.name.split("_")[0] in sick],
        "healthy_phantom": [s for s in packed if s.name.split("_")[0] not in sick],
    }
    return {name: (samples[name],) + METHODS[method][name] for name in METHODS[method] if samples[name]}


def recipe(method, root, phantoms=None, steps=4000, batch_size=8, rate=1e-3):
    """The recipe of `method` on the demonstration's data. No checkpoint is picked by a figure."""
    sources = groups_of(method, root, phantoms)
    net = MultitaskSpatial() if method.startswith("multitask") else LungNet()
    return Recipe(
        net=net.to(memory_format=torch.channels_last),
        batch=lambda rng: batch(rng, sources, batch_size),
        loss=lambda net, b: {"loss": lesion_loss(lesion_logits(net, b["slices"]).float(), b["masks"], b["weights"])},
        optimizer=torch.optim.Adam,
        rate=lambda step: rate * falling(step, steps),
        steps=steps,
        epoch=200,
        settings={"batch": batch_size, "rate": rate},
    )
