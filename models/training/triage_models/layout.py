"""A prepared data set in the paper's layout: its files, and the working copies on the 2 mm grid that training reads.

Owns that layout. Never judges a data set and never reads raw downloads (`prepare`).

    images/<id>/image.npy (rows, columns, slices), int16 HU, spacing.json (rows, columns, slices in mm), origin.json (see `write`)
    lungs_masks/<id>/lungs_mask.npy     covid_masks/<id>/<rater>/covid_mask.npy
    covid_labels/<id>/covid_label.json  subsets/<name>/ids.json
    working_2mm/<id>/...                made on demand: 2 mm, cropped to the lungs' box, as the engines crop; may be deleted

Rows run from front to back, columns from the patient's right to left, slices from head to feet.
"""

import json
import os
import shutil

import numpy as np
import torch
from scipy import ndimage

from . import reference
from .interpret import Interpreter

SHIPPED_LUNGS = os.path.join(os.path.dirname(__file__), "..", "..", "zoo", "lungs", "model.onnx")


class LayoutError(Exception):
    """A series that can't be used, or a data set that lacks something."""


def write_json(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.replace(path + ".part", path)


def write_array(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "wb") as file:
        np.save(file, value)
    os.replace(path + ".part", path)


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def stamps(root, paths):
    """[name below `root`, bytes, time of change in ns] of files, and of all files in folders; what is not there is left out."""
    files = [os.path.join(top, name) for path in paths for top, _, names in os.walk(path) for name in names]
    files += [path for path in paths if os.path.isfile(path)]
    return [[os.path.relpath(f, root), os.stat(f).st_size, os.stat(f).st_mtime_ns] for f in sorted(files)]


def nearest(mask, shape):
    """A mask on another in-plane grid, corners aligned."""
    rows, columns = (np.round(np.linspace(0, n - 1, m)).astype(int) for n, m in zip(mask.shape, shape))
    return mask[rows][:, columns]


class DataSet:
    """Reads and writes a prepared data set; series are named by their id."""

    def __init__(self, root):
        self.root = root

    def path(self, *parts):
        return os.path.join(self.root, *parts)

    def names(self, *parts):
        folder = self.path(*parts)
        return sorted(n for n in os.listdir(folder) if not n.startswith(".")) if os.path.isdir(folder) else []

    @property
    def ids(self):
        return [i for i in self.names("images") if os.path.exists(self.path("images", i, "spacing.json"))]

    def origin(self, id_):
        """What `write` was given, {} where nothing is recorded; None where there is no such series, or an unfinished one."""
        if not os.path.exists(self.path("images", id_, "spacing.json")):
            return None
        path = self.path("images", id_, "origin.json")
        return read_json(path) if os.path.exists(path) else {}

    def remove(self, id_):
        """All of a series but its names in subsets and reports."""
        if not id_ or os.path.basename(id_) != id_ or id_ in (".", ".."):
            raise LayoutError(f"`{id_}` can't be an id")
        spacing = self.path("images", id_, "spacing.json")
        if os.path.exists(spacing):
            os.remove(spacing)
        for folder in ("images", "lungs_masks", "covid_masks", "covid_labels", "working_2mm"):
            if os.path.isdir(self.path(folder, id_)):
                shutil.rmtree(self.path(folder, id_))

    def write(self, id_, image, spacing_mm, lungs=None, label=None, masks=None, origin=None):
        """One series, in place of one that has the id; the spacing is written last, so that a series without is one that was not finished.

        `origin`: {"source", "case", "files"}, where it is from; `files` are `stamps` of the raw download.
        """
        for name, mask in [("lungs", lungs), *(masks or {}).items()]:
            if mask is not None and mask.shape != image.shape:
                raise LayoutError(f"mask `{name}` of {mask.shape} for an image of {image.shape}")
        if image.ndim != 3 or min(image.shape) < 1:
            raise LayoutError(f"an image of {image.shape}")
        if not all(np.isfinite(s) and s > 0 for s in spacing_mm):
            raise LayoutError(f"spacing {tuple(spacing_mm)} mm")
        self.remove(id_)
        if origin is not None:
            write_json(self.path("images", id_, "origin.json"), origin)
        write_array(self.path("images", id_, "image.npy"), np.ascontiguousarray(image, np.int16))
        if lungs is not None:
            write_array(self.path("lungs_masks", id_, "lungs_mask.npy"), np.ascontiguousarray(lungs, bool))
        for rater, mask in (masks or {}).items():
            write_array(self.path("covid_masks", id_, rater, "covid_mask.npy"), np.ascontiguousarray(mask, bool))
        if label is not None:
            write_json(self.path("covid_labels", id_, "covid_label.json"), bool(label))
        write_json(self.path("images", id_, "spacing.json"), [float(s) for s in spacing_mm])

    def write_subset(self, name, ids):
        write_json(self.path("subsets", name, "ids.json"), sorted(ids))

    def subset(self, name):
        path = self.path("subsets", name, "ids.json")
        return read_json(path) if os.path.exists(path) else []

    def ids_of(self, source):
        """Series of a source: those of its subset, and those that `prepare` was at when it was interrupted."""
        return sorted({*self.subset(source), *(i for i in self.ids if (self.origin(i) or {}).get("source") == source)})

    def read_report(self, source):
        """{case: id} of what `prepare` brought in."""
        path = self.path("reports", f"{source}.json")
        return read_json(path)["done"] if os.path.exists(path) else {}

    def image(self, id_):
        return np.load(self.path("images", id_, "image.npy"))

    def spacing_mm(self, id_):
        return tuple(read_json(self.path("images", id_, "spacing.json")))

    def label(self, id_):
        path = self.path("covid_labels", id_, "covid_label.json")
        return bool(read_json(path)) if os.path.exists(path) else None

    def has_lungs(self, id_):
        return os.path.exists(self.path("lungs_masks", id_, "lungs_mask.npy"))

    def lungs(self, id_):
        return np.load(self.path("lungs_masks", id_, "lungs_mask.npy"))

    def raters(self, id_):
        return self.names("covid_masks", id_)

    def covid_mask(self, id_, rater):
        return np.load(self.path("covid_masks", id_, rater, "covid_mask.npy"))


class WorkingCopies:
    """Series on the 2 mm grid: HU int16 and masks, memory-mapped."""

    def __init__(self, dataset, crop, lungs_net=None):
        """`crop`: to the lungs' box. `lungs_net`: a `model.onnx`, for series without a lung mask."""
        self.dataset, self.crop, self.lungs_net = dataset, crop, lungs_net or SHIPPED_LUNGS
        self.kind, self.net = "lungs" if crop else "whole", None

    def folder(self, id_):
        return self.dataset.path("working_2mm", id_, self.kind)

    def usable(self, ids):
        """Makes what is missing: the ids that can be used, and {id: why} of the others."""
        good, broken = [], {}
        for id_ in ids:
            try:
                self.make(id_)
                good.append(id_)
            except (LayoutError, OSError, ValueError) as error:
                broken[id_] = str(error)
                print(f"{id_} is left out: {error}", flush=True)
        return good, broken

    def predicted_lungs(self, small):
        """Lungs at 2 mm by the net."""
        self.net = self.net or Interpreter(self.lungs_net)
        planes = [torch.sigmoid(self.net(reference.as_input(reference.data.window(small[:, :, k])))[0])[0, 0].numpy() for k in range(small.shape[2])]
        return np.stack(planes, axis=2) >= reference.LUNG_THRESHOLD

    def inputs(self, id_):
        """What a copy is made from: when any of it changes, or a mask arrives, the copy is made again."""
        parts = [("images", id_, "image.npy"), ("images", id_, "spacing.json"), ("lungs_masks", id_), ("covid_masks", id_)]
        found = stamps(self.dataset.root, [self.dataset.path(*p) for p in parts])
        if self.crop and not self.dataset.has_lungs(id_):
            found += stamps(os.path.dirname(self.lungs_net), [self.lungs_net])
        return found

    def make(self, id_):
        folder, inputs = self.folder(id_), self.inputs(id_)
        # Written last; the copy of a series without is not finished.
        record = os.path.join(folder, "inputs.json")
        if os.path.exists(record):
            if read_json(record) == inputs:
                return
            os.remove(record)
        dataset = self.dataset
        hu = dataset.image(id_)
        grid = reference.grid_shape(hu.shape, dataset.spacing_mm(id_))
        masks = {f"covid-{rater}": dataset.covid_mask(id_, rater) for rater in dataset.raters(id_)}
        if dataset.has_lungs(id_):
            masks["lungs"] = dataset.lungs(id_)
        for name, mask in masks.items():
            if mask.shape != hu.shape:
                raise LayoutError(f"mask `{name}` of {mask.shape} for an image of {hu.shape}")
        small = reference.on_slices(lambda p: reference.zoom_plane(p, grid), hu.astype(np.float32))
        masks = {name: nearest(mask, grid) for name, mask in masks.items()}
        if self.crop:
            lungs = masks["lungs"] if "lungs" in masks else self.predicted_lungs(small)
            if not lungs.any():
                raise LayoutError("no lungs in it")
            box = tuple(slice(*axis) for axis in reference.bounding_box(lungs))
            small, masks = small[box], {name: mask[box] for name, mask in masks.items()}
        write_array(os.path.join(folder, "image.npy"), np.round(small).astype(np.int16))
        for name, mask in masks.items():
            write_array(os.path.join(folder, f"{name}.npy"), mask)
        write_json(record, inputs)

    def image(self, id_):
        return np.load(os.path.join(self.folder(id_), "image.npy"), mmap_mode="r")

    def mask(self, id_, name):
        return np.load(os.path.join(self.folder(id_), f"{name}.npy"), mmap_mode="r")


def made_up(root, series=6, seed=0):
    """A tiny data set to try a recipe on: chests of noise, dense patches in the sick ones' lungs. No substitute for data."""
    rng, dataset, names = np.random.RandomState(seed), DataSet(root), {"nsclc-radiomics": []}
    rows, columns = np.mgrid[-1:1:56j, -1:1:72j]
    lungs_plane = ((np.abs(columns) - 0.45) / 0.35) ** 2 + (rows / 0.75) ** 2 < 1
    for index in range(series):
        id_, sick, masked = f"made-up-{index}", index % 3 != 0, index % 3 == 1
        lungs = np.repeat(lungs_plane[:, :, None], 20, axis=2)
        lungs[:, :, [0, -1]] = False
        hu = np.where(lungs, -850, 40) + rng.normal(0, 20, lungs.shape)
        lesion = np.zeros_like(lungs)
        for _ in range(8 if sick else 0):
            z, y, x = rng.randint(1, 19), rng.randint(8, 48), rng.randint(8, 64)
            lesion[max(0, y - 7) : y + 7, max(0, x - 7) : x + 7, max(0, z - 3) : z + 3] = True
        lesion &= lungs
        dataset.write(
            id_, np.where(lesion, hu + 500, hu), (2.0, 2.0, 8.0), lungs, label=sick, masks={"made-up": lesion} if masked else None
        )
        if not sick:
            names["nsclc-radiomics"].append(id_)
    for name, ids in names.items():
        dataset.write_subset(name, ids)
    return dataset
