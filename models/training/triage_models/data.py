"""Reads the training data (`data/README.md` of the data set) into one convention.

Owns the file formats, the orientation, the hold-out and the mapping of 8-bit pictures to HU.
Never augments, never writes into the data.

A slice is float32 HU [rows, columns], upright: row 0 anterior, spine below. A volume is
[rows, columns, slices], slices from head to feet. Masks are bool of the same shape.
"""

import os
from dataclasses import dataclass

import numpy as np

WINDOW_HU = (-1000.0, 300.0)
SPACING_MM = 2.0
# Every fifth slice of `lung_slices.npz` and the last lung volume are never trained on.
HELD_OUT_EVERY = 5
HELD_OUT_VOLUME = "id004"
# HU of normal lung and of muscle or blood, at which the peaks of an 8-bit picture are put.
LUNG_PEAK_HU, TISSUE_PEAK_HU = -870.0, 40.0


@dataclass
class Sample:
    """One slice to train on. `pixel_mm` is a guess where the source does not record it."""

    name: str
    hu: np.ndarray
    mask: np.ndarray
    pixel_mm: float
    weight: float = 1.0


@dataclass
class Volume:
    """One volume; `spacing_mm` is (rows, columns, slices)."""

    name: str
    hu: np.ndarray
    lungs: np.ndarray
    spacing_mm: tuple


def window(hu):
    """HU -> [0, 1] over the window, float32."""
    low, high = WINDOW_HU
    return ((np.clip(hu, low, high) - low) / (high - low)).astype(np.float32)


def held_out(index):
    """Whether slice `index` of `lung_slices.npz` is held out."""
    return index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def lung_slices(root, test):
    """The training or the held-out slices of `lung_slices.npz` with their lung masks."""
    data = np.load(os.path.join(root, "lung_slices.npz"))
    hu, lung, names = data["hu"], data["lung"], data["name"]
    return [
        Sample(str(names[i]), hu[i].astype(np.float32), lung[i], 1.4)
        for i in range(len(names))
        if held_out(i) == test
    ]


def lung_volumes(root, test):
    """The training or the held-out volumes of `lung_volumes.npz`."""
    data = np.load(os.path.join(root, "lung_volumes.npz"))
    volumes = []
    for name in sorted({key.split("_")[0] for key in data.files}):
        if (name == HELD_OUT_VOLUME) != test:
            continue
        # Stored with the spine at the left and slice 0 at the feet: a quarter turn counter-clockwise.
        hu = np.rot90(data[name + "_hu"], 1)[:, :, ::-1].astype(np.float32)
        lungs = np.rot90(data[name + "_lung"], 1)[:, :, ::-1]
        spacing = tuple(float(v) for v in data[name + "_spacing_mm"])
        volumes.append(Volume(name, np.ascontiguousarray(hu), np.ascontiguousarray(lungs), spacing))
    return volumes


def volume_slices(volumes):
    """Every slice of the volumes, those without lung among them."""
    return [
        Sample(f"{v.name}_{k}", v.hu[:, :, k], v.lungs[:, :, k], v.spacing_mm[0])
        for v in volumes
        for k in range(v.hu.shape[2])
    ]
