"""Reads the training data (`data/README.md` of the data set) into one convention.

Owns the file formats, the orientation, the hold-out and the mapping of 8-bit pictures to HU.
Never augments, never writes into the data.

A slice is float32 HU [rows, columns], upright: row 0 anterior, spine below. A volume is
[rows, columns, slices], slices from head to feet. Masks are bool of the same shape.
"""

import os
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, signal

WINDOW_HU = (-1000.0, 300.0)
SPACING_MM = 2.0
# Every fifth slice of `lung_slices.npz` and the last lung volume are never trained on.
HELD_OUT_EVERY = 5
HELD_OUT_VOLUME = "id004"
# Faulty truth in `lung_slices.npz`: a whole lung is left out, or air around the body is lung. Not trained on;
# held-out figures are given with and without them. Found by comparing the masks with the air in the image.
FAULTY_MASKS = {
    "ID_0038_Z_0148": "a lung left out",
    "ID_0052_Z_0108": "air around the body",
    "ID_0079_Z_0072": "a lung left out",
    "ID_0134_Z_0137": "air around the body",
    "ID_0226_Z_0066": "a lung left out",
    "ID_0241_Z_0124": "a lung left out",
    "ID_0254_Z_0075": "air around the body",
}
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
        if held_out(i) == test and (test or str(names[i]) not in FAULTY_MASKS)
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


def to_hu(levels):
    """The map of an 8-bit picture (or of all pictures of one volume) to HU: returns (gain, offset).

    The display window is not recorded. The peak of normal lung and the peak of soft tissue in the
    histogram give the line; where disease hides the lung peak, the darkest percent is taken as
    airway air, and where soft tissue is saturated, the white level as soft tissue.
    """
    counts = ndimage.gaussian_filter1d(np.bincount(levels.ravel(), minlength=256).astype(float), 3)
    padded = np.concatenate([[0.0], counts, [0.0]])
    peaks = signal.find_peaks(padded, prominence=0.05 * counts.max())[0] - 1
    peaks = [int(p) for p in peaks if p > 0]
    darkest = float(np.percentile(levels, 1))
    lung = next((p for p in peaks if p <= 75), None)
    floor = lung if lung is not None else darkest
    tissues = [p for p in peaks if floor + 60 <= p <= 250]
    tissue = max(tissues, key=lambda p: counts[p]) if tissues else 255.0
    low, low_hu = (lung, LUNG_PEAK_HU) if lung is not None else (darkest, -985.0)
    gain = (TISSUE_PEAK_HU - low_hu) / (tissue - low)
    return gain, TISSUE_PEAK_HU - gain * tissue


def lesion_slices(root, name):
    """The slices of a lesion file with their masks, upright, in HU.

    `name` is doctor_train, doctor_test or pseudo_train. The pictures are cropped to the lungs: their
    longer side is taken as 270 mm, the width of an adult's lungs, since no spacing is recorded.
    """
    data = np.load(os.path.join(root, f"lesion_{name}.npz"))
    keys = [key[: -len("_image")] for key in data.files if key.endswith("_image")]
    volumes = {}
    for key in keys:
        volumes.setdefault(key.rsplit("_", 1)[0] if "pseudo" in name else key, []).append(key)
    samples = []
    for members in volumes.values():
        images = {key: data[key + "_image"] for key in members}
        gain, offset = to_hu(np.concatenate([image.ravel() for image in images.values()]))
        for key, image in images.items():
            hu, mask = gain * image.astype(np.float32) + offset, data[key + "_lesion"]
            if image.shape[1] < 1.2 * image.shape[0]:
                turns = 1 if "coronacases" in key else -1
                hu, mask = np.rot90(hu, turns), np.rot90(mask, turns)
            pixel_mm = float(np.clip(270.0 / max(image.shape), 1.0, 2.1))
            samples.append(Sample(key, np.ascontiguousarray(hu), np.ascontiguousarray(mask), pixel_mm))
    return samples


@dataclass
class Phantom:
    """A digital phantom on its 1 mm grid: HU int16, labels 1 right lung, 2 left, 4 added where diseased."""

    name: str
    hu: np.ndarray
    labels: np.ndarray
    slice_mm: float


def phantoms(path):
    """The phantoms that `phantoms.py` packed."""
    packed = np.load(path)
    names = sorted({key.split("_")[0] for key in packed.files})
    return [Phantom(n, packed[n + "_hu"], packed[n + "_labels"], float(packed[n + "_slice_mm"])) for n in names]


def phantom_lungs(path):
    """Every slice of the phantoms with its lung mask."""
    return [
        Sample(f"{p.name}_{k}", p.hu[:, :, k], p.labels[:, :, k] > 0, 1.0)
        for p in phantoms(path)
        for k in range(p.hu.shape[2])
    ]


def phantom_lesions(path):
    """The slices of the phantoms cropped to the 3-D box of their lungs, with their lesion masks."""
    samples = []
    for p in phantoms(path):
        inside = [np.flatnonzero(p.labels.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        rows, columns = (slice(int(i[0]), int(i[-1]) + 1) for i in inside[:2])
        for k in range(int(inside[2][0]), int(inside[2][-1]) + 1):
            samples.append(Sample(f"{p.name}_{k}", p.hu[rows, columns, k], p.labels[rows, columns, k] >= 4, 1.0))
    return samples


def slices_without_lungs(argument):
    """Slices of a CT series that a person found to show no lung: `FOLDER:0-9,146-153`, head first."""
    from .reference import read_series

    folder, _, ranges = argument.rpartition(":")
    hu, spacing_mm, _ = read_series(folder)
    picked = [k for part in ranges.split(",") for k in range(int(part.split("-")[0]), int(part.split("-")[1]) + 1)]
    empty = np.zeros(hu.shape[:2], bool)
    return [Sample(f"without_{k}", np.ascontiguousarray(hu[:, :, k]), empty, spacing_mm[0]) for k in picked]
