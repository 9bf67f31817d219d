"""The paper's recipes, for every method of Table 2 that learns.

Owns batch composition, losses, schedules and the choice of the checkpoint, on a data set in the paper's layout (`layout`). The numbers are
the paper's (sections 4.2 to 4.4) or, where it is silent, its public code's. Where both are silent: crops are taken at a random place, what
a batch is padded with counts in no loss, and a series is pooled over its own slices without the padding. Where they differ: batches are of 2
series, as in the code; series with a lesion mask do not count in the identification loss, as in the text (the code's is over all series of a batch).
"""

import hashlib
import json
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats
from torch.nn import functional

from . import data
from .baselines import SeriesNet, VolumeNet
from .layout import DataSet, WorkingCopies, made_up
from .loop import Recipe, TrainingError
from .nets import LungNet, MultitaskLatent, MultitaskSpatial

MULTITASK = ("multitask-latent",) + tuple(f"multitask-spatial-{level}" for level in range(1, 8))
METHODS = ("lungs", "unet2d", "unet2d-plus", "unet3d", "resnet50") + MULTITASK
# Groups of series: chance in a batch.
NEGATIVE, WEAK, MASKED = "negative", "positive without mask", "positive with mask"
GROUPS = {
    "unet2d": {MASKED: 1.0},
    "unet2d-plus": {MASKED: 0.5, NEGATIVE: 0.5},
    "unet3d": {MASKED: 1.0},
    "resnet50": {NEGATIVE: 0.5, WEAK: 0.5},
    **{method: {NEGATIVE: 0.25, WEAK: 0.25, MASKED: 0.5} for method in MULTITASK},
}
IDENTIFICATION_WEIGHT = 0.1
VALIDATION_SERIES = 30
# Sources whose lung masks are a truth to train the lung net on; MedSeg's are held out.
LUNG_SOURCES = ("nsclc-radiomics", "luna16")
# Never trained on, even where it was prepared into the same folder.
TEST_SET = "mosmed-test"
SLICES_AT_ONCE = 8


@dataclass
class Plan:
    """The numbers of a recipe."""

    steps: int
    epoch: int
    rate: float
    # (share of the steps, factor): the rate from there on.
    drop: tuple = (1.0, 1.0)
    batch: int = 5
    slices: int = 32
    crop: tuple = (128, 160)
    # unet3d: slices, rows, columns.
    patch: tuple = (160, 160, 160)
    validation: int = VALIDATION_SERIES
    optimizer: object = field(default=torch.optim.Adam)


# Batches of 2 series are those of the paper's code; its text says 5.
PLANS = {
    "lungs": Plan(steps=100 * 160, epoch=160, rate=1e-3, drop=(0.5, 0.1), batch=30),
    "unet2d": Plan(steps=15_000, epoch=300, rate=3e-4),
    "unet2d-plus": Plan(steps=15_000, epoch=300, rate=3e-4),
    "unet3d": Plan(steps=10_000, epoch=200, rate=0.01, batch=16, optimizer=torch.optim.SGD),
    **{m: Plan(steps=100 * 300, epoch=300, rate=3e-4, drop=(0.8, 0.3), batch=2) for m in ("resnet50",) + MULTITASK},
}


def net_of(method):
    """The untrained net of a method."""
    if method in ("lungs", "unet2d", "unet2d-plus"):
        return LungNet()
    if method == "multitask-latent":
        return MultitaskLatent()
    if method in MULTITASK:
        return MultitaskSpatial(int(method.rpartition("-")[2]))
    return {"unet3d": VolumeNet, "resnet50": SeriesNet}[method]()


def groups_of(dataset, method):
    """{group: ids} of a method. Negatives of unet2d-plus are those of NSCLC-Radiomics alone."""
    groups, held_out = {NEGATIVE: [], WEAK: [], MASKED: []}, set(dataset.ids_of(TEST_SET))
    for id_ in dataset.ids:
        label = dataset.label(id_)
        if label is not None and id_ not in held_out:
            groups[(MASKED if dataset.raters(id_) else WEAK) if label else NEGATIVE].append(id_)
    if method == "unet2d-plus":
        groups[NEGATIVE] = [i for i in groups[NEGATIVE] if i in set(dataset.ids_of("nsclc-radiomics"))]
    return {name: groups[name] for name in GROUPS[method]}


def split(groups, count, seed):
    """(training groups, validation ids): about `count` series of those without lesion mask, each group by its share."""
    rng, held_out = np.random.RandomState([42, seed]), []
    pools = {name: ids for name, ids in groups.items() if name != MASKED}
    total, train = sum(map(len, pools.values())), dict(groups)
    for name, ids in pools.items():
        mixed = [ids[i] for i in rng.permutation(len(ids))]
        share = min(round(count * len(ids) / max(1, total)), len(ids) - 1)
        held_out += mixed[:share]
        train[name] = sorted(mixed[share:])
    return train, sorted(held_out)


def thin(rng, count, slices):
    """Which slices stay: every k-th from a random one on, `slices` in all; all of them where there are no more."""
    if count <= slices:
        return slice(0, count, 1)
    stride, rest = divmod(count, slices)
    first = rng.randint(stride + rest)
    return slice(first, first + stride * (slices - 1) + 1, stride)


def crop(rng, shape, most):
    """A window of at most `most` at a random place."""
    starts = [rng.randint(n - m + 1) if n > m else 0 for n, m in zip(shape, most)]
    return tuple(slice(s, min(s + m, n)) for s, m, n in zip(starts, most, shape))


def pad(arrays, value=0):
    """Arrays of one rank in the corner of a common size."""
    size = [max(a.shape[i] for a in arrays) for i in range(arrays[0].ndim)]
    return np.stack([np.pad(a, [(0, n - m) for n, m in zip(size, a.shape)], constant_values=value) for a in arrays])


def draw_series(rng, copies, groups, chances, plan):
    """One series of a batch: window [D, H, W], mask, where the mask is known, group."""
    names = list(groups)
    group = names[rng.choice(len(names), p=[chances[n] for n in names])]
    id_ = groups[group][rng.randint(len(groups[group]))]
    image = copies.image(id_)
    place = crop(rng, image.shape[:2], plan.crop) + (thin(rng, image.shape[2], plan.slices),)
    window = data.window(np.asarray(image[place], np.float32)).transpose(2, 0, 1)
    mask, known = np.zeros(window.shape, np.float32), np.zeros(window.shape, bool)
    if group == MASKED:
        raters = copies.dataset.raters(id_)
        mask = np.asarray(copies.mask(id_, f"covid-{raters[rng.randint(len(raters))]}")[place], np.float32).transpose(2, 0, 1)
        known[:] = True
    return window, mask, known, group


def series_batch(rng, copies, groups, chances, plan):
    """A batch of series, padded: slices, masks and known [S, D, 1, H, W], sizes [S, 3], label and identify [S].

    `identify`: whether the series counts in the identification loss; series with a lesion mask train the lesion head alone.
    """
    drawn = [draw_series(rng, copies, groups, chances, plan) for _ in range(plan.batch)]
    windows, masks, known, names = zip(*drawn)
    return {
        "slices": torch.from_numpy(pad(windows)).unsqueeze(2),
        "masks": torch.from_numpy(pad(masks)).unsqueeze(2),
        "known": torch.from_numpy(pad(known)).unsqueeze(2),
        "sizes": torch.tensor([w.shape for w in windows]),
        "label": torch.tensor([float(n != NEGATIVE) for n in names]),
        "identify": torch.tensor([n != MASKED for n in names]),
    }


def slice_batch(rng, copies, ids, plan):
    """The lung net's batch: random slices of random series, with their masks."""
    slices, masks = [], []
    for _ in range(plan.batch):
        id_ = ids[rng.randint(len(ids))]
        image = copies.image(id_)
        k = rng.randint(image.shape[2])
        slices.append(data.window(np.asarray(image[:, :, k], np.float32)))
        masks.append(np.asarray(copies.mask(id_, "lungs")[:, :, k]))
    known = pad([np.ones(m.shape, bool) for m in masks])
    return {
        "slices": torch.from_numpy(pad(slices))[:, None],
        "masks": torch.from_numpy(pad(masks)).float()[:, None],
        "known": torch.from_numpy(known)[:, None],
    }


def patch_batch(rng, copies, ids, plan):
    """The 3-D U-Net's batch: patches [N, 1, D, H, W], padded where the series is smaller."""
    patches, masks = [], []
    for _ in range(plan.batch):
        id_ = ids[rng.randint(len(ids))]
        image, raters = copies.image(id_), copies.dataset.raters(id_)
        depth, rows, columns = plan.patch
        place = crop(rng, image.shape, (rows, columns, depth))
        patches.append(data.window(np.asarray(image[place], np.float32)).transpose(2, 0, 1))
        mask = copies.mask(id_, f"covid-{raters[rng.randint(len(raters))]}")
        masks.append(np.asarray(mask[place]).transpose(2, 0, 1))
    # Every patch of full size, as the engine's are.
    full = np.zeros(plan.patch, bool)
    known = pad([np.ones(m.shape, bool) for m in masks] + [full])[:-1]
    return {
        "slices": torch.from_numpy(pad([*patches, full.astype(np.float32)])[:-1])[:, None],
        "masks": torch.from_numpy(pad([*masks, full])[:-1]).float()[:, None],
        "known": torch.from_numpy(known)[:, None],
    }


def entropy_where(logits, masks, known):
    """Mean cross-entropy over the voxels whose truth is known; 0 where there are none."""
    each = functional.binary_cross_entropy_with_logits(logits.float(), masks, reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def voxel_loss(net, batch):
    return {"loss": entropy_where(net(batch["slices"]), batch["masks"], batch["known"])}


def in_series(logits, batch):
    """Of all slices of a batch, back in their series."""
    return logits.reshape(batch["slices"].shape)


def slices_loss(net, batch):
    """2-D U-Net and U-Net+: the lesion loss of series."""
    logits = in_series(net(batch["slices"].flatten(0, 1)), batch)
    return {"loss": entropy_where(logits, batch["masks"], batch["known"])}


def plus_loss(net, batch):
    """2-D U-Net+: series without the disease have an empty mask, known everywhere."""
    rows = torch.arange(batch["slices"].shape[3], device=batch["slices"].device)
    columns = torch.arange(batch["slices"].shape[4], device=batch["slices"].device)
    depth = torch.arange(batch["slices"].shape[1], device=batch["slices"].device)
    inside = [places[None] < batch["sizes"][:, axis, None] for axis, places in enumerate((depth, rows, columns))]
    own = inside[0][:, :, None, None, None] & inside[1][:, None, None, :, None] & inside[2][:, None, None, None, :]
    empty = own & (batch["label"] == 0)[:, None, None, None, None]
    return slices_loss(net, dict(batch, known=batch["known"] | empty))


def pooled(net, features, sizes, batch):
    """The vector of every series, its padding left out."""
    features = features.reshape((*batch["slices"].shape[:2], *features.shape[1:]))
    vectors = []
    for each, (depth, rows, columns) in zip(features, sizes.tolist()):
        own = each[:depth]
        if own.ndim == 4:
            shrunk = getattr(net, "level", 1) - 1
            for _ in range(shrunk):
                rows, columns = -(-rows // 2), -(-columns // 2)
            own = own[:, :, :rows, :columns]
        vectors.append(net.pool(own.float()))
    return torch.stack(vectors)


def identification_loss(logits, batch):
    """Mean cross-entropy over the series without a lesion mask; 0 where there are none.

    So has the paper's text it; its public code takes the mean over all series of the batch (`cls_bce`).
    """
    each = functional.binary_cross_entropy_with_logits(logits[:, 0].float(), batch["label"], reduction="none")
    return (each * batch["identify"]).sum() / batch["identify"].sum().clamp(min=1)


def multitask_loss(net, batch):
    features, logits = net(batch["slices"].flatten(0, 1))
    lesions = entropy_where(in_series(logits, batch), batch["masks"], batch["known"])
    found = net.identification(pooled(net, features, batch["sizes"], batch))
    identification = identification_loss(found, batch)
    return {"loss": lesions + IDENTIFICATION_WEIGHT * identification, "lesions": lesions, "identification": identification}


def series_loss(net, batch):
    found = net.identification(pooled(net, net(batch["slices"].flatten(0, 1)), batch["sizes"], batch))
    return {"loss": identification_loss(found, batch)}


LOSSES = {"lungs": voxel_loss, "unet3d": voxel_loss, "unet2d": slices_loss, "unet2d-plus": plus_loss, "resnet50": series_loss}


def probability(net, window):
    """Probability of a series [D, H, W]."""
    device = next(net.parameters()).device
    parts = []
    for k in range(0, len(window), SLICES_AT_ONCE):
        found = net(torch.from_numpy(window[k : k + SLICES_AT_ONCE])[:, None].to(device))
        parts.append(found[0] if isinstance(found, tuple) else found)
    return float(torch.sigmoid(net.identification(net.pool(torch.cat(parts))[None]))[0, 0])


def roc_auc(labels, scores):
    """Area under the curve, ties counted half; None where a class is missing."""
    labels = np.asarray(labels, bool)
    positives, negatives = labels.sum(), (~labels).sum()
    if positives == 0 or negatives == 0:
        return None
    ranks = stats.rankdata(scores)
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def validate_series(copies, ids):
    def validate(net):
        windows = (data.window(np.asarray(copies.image(i), np.float32)).transpose(2, 0, 1) for i in ids)
        scores = [probability(net, np.ascontiguousarray(w)) for w in windows]
        auc = roc_auc([copies.dataset.label(i) for i in ids], scores)
        return {} if auc is None else {"roc_auc": auc}

    return validate


def validate_lungs(copies, ids):
    def validate(net):
        device, dices = next(net.parameters()).device, []
        for id_ in ids:
            image, truth = copies.image(id_), copies.mask(id_, "lungs")
            both = found = 0
            for k in range(image.shape[2]):
                x = torch.from_numpy(data.window(np.asarray(image[:, :, k], np.float32)))[None, None].to(device)
                guess = (net(x)[0, 0] >= 0).cpu().numpy()
                both, found = both + int((guess & truth[:, :, k]).sum()), found + int(guess.sum())
            dices.append(2 * both / max(1, found + int(truth.sum())))
        return {"dice": float(np.mean(dices))} if dices else {}

    return validate


def rate_of(plan):
    share, factor = plan.drop
    return lambda step: plan.rate * (factor if step >= share * plan.steps else 1.0)


def settings_of(plan, **series):
    """The numbers of a plan and which series it is for: those of another split, or with masks that came later, give another digest."""
    digest = hashlib.sha256(json.dumps(series, sort_keys=True).encode()).hexdigest()[:12]
    return {**vars(plan), "optimizer": plan.optimizer.__name__, "series": digest}


def lungs_recipe(dataset, plan, seed):
    ids = sorted({i for source in LUNG_SOURCES for i in dataset.ids_of(source)} - set(dataset.ids_of(TEST_SET)))
    copies = WorkingCopies(dataset, crop=False)
    ids, _ = copies.usable([i for i in ids if dataset.has_lungs(i)])
    train, held_out = split({"all": ids}, plan.validation, seed)
    if not train["all"]:
        raise TrainingError(f"{dataset.root} has no series of {' or '.join(LUNG_SOURCES)} with a lung mask")
    return Recipe(
        net=net_of("lungs"), batch=lambda rng: slice_batch(rng, copies, train["all"], plan), loss=voxel_loss,
        optimizer=plan.optimizer, rate=rate_of(plan), steps=plan.steps, epoch=plan.epoch,
        validate=validate_lungs(copies, held_out), better="dice", validated_on=f"the run's own {len(held_out)} validation series",
        settings=settings_of(plan, train=train, held_out=held_out),
    )  # fmt: skip


def planned_recipe(method, dataset, plan, seed, lungs):
    """A recipe with the numbers of `plan`."""
    if method == "lungs":
        return lungs_recipe(dataset, plan, seed)
    copies, groups = WorkingCopies(dataset, crop=True, lungs_net=lungs), groups_of(dataset, method)
    groups = {name: copies.usable(ids)[0] for name, ids in groups.items()}
    classifies = method in MULTITASK or method == "resnet50"
    groups, held_out = split(groups, plan.validation, seed) if classifies else (groups, [])
    empty = [name for name, ids in groups.items() if not ids]
    if empty:
        raise TrainingError(f"{dataset.root} has no usable series of the group `{empty[0]}` to train {method} on")
    draw = lambda rng: series_batch(rng, copies, groups, GROUPS[method], plan)  # noqa: E731
    if method == "unet3d":
        draw = lambda rng: patch_batch(rng, copies, groups[MASKED], plan)  # noqa: E731
    return Recipe(
        net=net_of(method), batch=draw, loss=LOSSES.get(method, multitask_loss),
        optimizer=lambda parameters: plan.optimizer(parameters, lr=plan.rate), rate=rate_of(plan), steps=plan.steps, epoch=plan.epoch,
        validate=validate_series(copies, held_out) if held_out else None, better="roc_auc" if held_out else None,
        validated_on=f"the run's own {len(held_out)} validation series", settings=settings_of(plan, train=groups, held_out=held_out),
    )  # fmt: skip


def recipe(method, folder, steps=None, batch_size=None, rate=None, split=0, lungs=None):
    """The paper's recipe on a prepared data set; numbers that are given take the place of the paper's."""
    plan = PLANS[method]
    changes = {"steps": steps, "batch": batch_size, "rate": rate}
    plan = Plan(**{**vars(plan), **{key: value for key, value in changes.items() if value is not None}})
    return planned_recipe(method, DataSet(folder), plan, split, lungs)


# Small enough for a minute on a processor; the rates are higher, so that the loss falls within it.
QUICK = {
    "lungs": Plan(steps=24, epoch=24, rate=3e-3, batch=4, validation=1),
    "unet3d": Plan(steps=24, epoch=24, rate=0.1, batch=2, patch=(8, 32, 32), optimizer=torch.optim.SGD),
    "resnet50": Plan(steps=24, epoch=24, rate=1e-4, batch=4, slices=4, crop=(48, 64), validation=2),
}
QUICK_SLICES = Plan(steps=24, epoch=24, rate=3e-3, batch=2, slices=4, crop=(48, 64), validation=2)
# The identification head takes no such rate.
QUICK_MULTITASK = Plan(steps=30, epoch=30, rate=2e-4, batch=4, slices=4, crop=(48, 64), validation=2)


def quick_recipe(method, folder, made_up_folder, steps=None, lungs=None):
    """A small part of the recipe, on a made-up data set where none is given."""
    plan = QUICK.get(method, QUICK_MULTITASK if method in MULTITASK else QUICK_SLICES)
    plan = Plan(**{**vars(plan), "steps": steps or plan.steps})
    dataset = DataSet(folder) if folder else made_up(made_up_folder)
    return planned_recipe(method, dataset, plan, 0, lungs)
