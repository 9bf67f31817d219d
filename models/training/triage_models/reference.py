"""The whole pipeline on one CT series, in PyTorch and SciPy: the definition that engines must meet.

    python -m triage_models.reference SERIES_FOLDER --zoo models/zoo --out golden

Owns the definition; never part of the appliance, never fast. Tolerances against it: probability
1e-3, masks 1e-4 of the voxels, severity 1e-3.

Arrays here are [rows, columns, slices]: row 0 anterior, column 0 the patient's right, slice 0 the
most cranial. A size written `n` is of the source grid, `m` of the 2 mm grid.

1. HU = stored value * rescale slope + intercept, float32.
2. 2 mm grid: rows and columns only. m = round(n * (spacing / 2)), halves to even, at least 1. Linear
   with aligned corners: sample i lies at i * (n - 1) / (m - 1), held at n - 1 (SciPy's zoom, order 1,
   mode "nearest"; its default mode blanks the last row when that product rounds up). m = 1: sample 0.
3. Window: clip to [-1000, 300] HU, then to [0, 1]. After the resampling. Padding of -2000 or -3024
   HU outside the field of view is resampled as it is.
4. Lungs at 2 mm: sigmoid(lung net) >= 0.5, slice by slice. None: the study is not evaluated.
5. Box: the bounding box of that mask in all three axes, half open. The windowed volume is cropped.
6. Multitask net on each cropped slice: features, and lesion probability = sigmoid(lesions).
7. Pyramid max-pooling of the features (`nets.pyramid_windows`), identification = sigmoid(head).
8. Back to the source grid, lungs and lesions alike: per axis the box becomes [ceil(start * (n / m)),
   floor(stop * (n / m))), with n / m rounded to a double first (slices: unchanged); the probability inside
   the box is zoomed to exactly that size, corners aligned as in 2, and zero elsewhere.
9. Then the thresholds: lungs >= 0.5, lesions >= 0.2. A box that vanishes has neither, and the
   study is not evaluated.
10. Left and right: k-means, k = 2, on the indices of the source-grid lung mask, ordered by row, then column,
   then slice; every 30th voxel from the first (all when there are at most 60). Start: the mean with its
   column replaced by the smallest and by the largest; Lloyd until nothing changes, at most 300
   rounds; the centre with the smaller column is the right lung, which also gets voxels at equal distance.
11. Severity of a lung = its voxels with lesion / its voxels; of the study = the larger of the two. A
   lesion voxel outside the lung mask counts nowhere, in the volumes neither.
"""

import argparse
import gzip
import json
import os

import numpy as np
import torch
from scipy import ndimage

from . import data
from .interpret import Interpreter
from .nets import pyramid_max_pool

LUNG_THRESHOLD, LESION_THRESHOLD = 0.5, 0.2
FIT_ALL_MAX, FIT_EVERY, ROUNDS_MAX = 60, 30, 300


class NotEvaluated(Exception):
    """A series that the method has no answer for."""


def read_series(folder, series=None):
    """(HU [rows, columns, slices], spacing (rows, columns, slices) in mm, header of the first slice).

    Axial CT only. Where the folder has several series and none is named: the one with the most
    slices, and among equals the softest kernel by the model card's list.
    """
    import pydicom

    from .export import INPUT

    groups = {}
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                header = pydicom.dcmread(os.path.join(root, name))
            except pydicom.errors.InvalidDicomError:
                continue
            if header.get("Modality") == "CT" and "ImagePositionPatient" in header:
                groups.setdefault(str(header.SeriesInstanceUID), []).append(header)
    if series is not None:
        groups = {uid: group for uid, group in groups.items() if uid == series}
    if not groups:
        raise NotEvaluated(f"no CT series in {folder}")
    kernels = INPUT["preferred_kernels"]

    def rank(group):
        kernel = str(group[0].get("ConvolutionKernel", ""))
        return len(group), -kernels.index(kernel) if kernel in kernels else -len(kernels)

    group = max(groups.values(), key=rank)
    # Head first: descending z of the patient's coordinates.
    group.sort(key=lambda header: -float(header.ImagePositionPatient[2]))
    planes = [h.pixel_array * np.float32(h.RescaleSlope) + np.float32(h.RescaleIntercept) for h in group]
    hu = np.stack(planes, axis=2).astype(np.float32)
    row, column = np.array(group[0].ImageOrientationPatient, float).reshape(2, 3)
    if abs(row[0]) < 0.9 or abs(column[1]) < 0.9:
        raise NotEvaluated(f"orientation {list(group[0].ImageOrientationPatient)} is not axial")
    hu = hu[:, ::-1] if row[0] < 0 else hu
    hu = hu[::-1] if column[1] < 0 else hu
    z = [float(h.ImagePositionPatient[2]) for h in group]
    gap = abs(z[0] - z[-1]) / max(len(z) - 1, 1)
    rows_mm, columns_mm = (float(v) for v in group[0].PixelSpacing)
    return np.ascontiguousarray(hu), (rows_mm, columns_mm, gap), group[0]


def zoom_plane(plane, shape):
    """Linear zoom to exactly `shape`, corners aligned."""
    out = ndimage.zoom(plane, [m / n for n, m in zip(plane.shape, shape)], order=1, mode="nearest")
    if out.shape != tuple(shape):
        raise AssertionError(f"zoom of {plane.shape} to {shape} gave {out.shape}")
    return out


def grid_shape(shape, spacing_mm):
    """Rows and columns of the 2 mm grid."""
    return tuple(max(1, int(round(n * (s / data.SPACING_MM)))) for n, s in zip(shape[:2], spacing_mm[:2]))


def on_slices(function, volume):
    """Applies `function` to every slice and stacks."""
    return np.stack([function(volume[:, :, k]) for k in range(volume.shape[2])], axis=-1)


def as_input(plane):
    return torch.from_numpy(np.ascontiguousarray(plane))[None, None]


def bounding_box(mask):
    """[start, stop) of each axis of a mask that isn't empty."""
    inside = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return [(int(i[0]), int(i[-1]) + 1) for i in inside]


def paste_back(crop, box, grid, shape):
    """The crop's probabilities on the source grid; step 8."""
    out = np.zeros(shape, np.float32)
    target = []
    for (start, stop), m, n in zip(box[:2], grid, shape[:2]):
        scale = n / m
        target.append((int(np.ceil(start * scale)), int(np.floor(stop * scale))))
    (top, bottom), (left, right) = target
    if bottom > top and right > left:
        first, last = box[2]
        out[top:bottom, left:right, first:last] = on_slices(lambda p: zoom_plane(p, (bottom - top, right - left)), crop)
    return out


def split_lungs(mask):
    """(right, left) masks; step 10."""
    points = np.argwhere(mask)[:, [2, 0, 1]].astype(float)
    fitted = points if len(points) <= FIT_ALL_MAX else points[::FIT_EVERY]
    centres = np.repeat(fitted.mean(axis=0)[None], 2, axis=0)
    centres[:, 2] = fitted[:, 2].min(), fitted[:, 2].max()

    def is_left(p):
        distances = ((p[:, None] - centres[None]) ** 2).sum(axis=2)
        return distances[:, 1] < distances[:, 0]

    before = None
    for _ in range(ROUNDS_MAX):
        sides = is_left(fitted)
        if before is not None and (sides == before).all():
            break
        before = sides
        for side, members in ((0, fitted[~sides]), (1, fitted[sides])):
            if len(members):
                centres[side] = members.mean(axis=0)
    centres = centres[np.argsort(centres[:, 2], kind="stable")]
    left = np.zeros(mask.shape, bool)
    where = points[is_left(points)].astype(int)
    left[where[:, 1], where[:, 2], where[:, 0]] = True
    return mask & ~left, left


class Pipeline:
    """The two nets of a zoo folder."""

    def __init__(self, zoo):
        self.lungs = Interpreter(os.path.join(zoo, "lungs", "model.onnx"))
        self.multitask = Interpreter(os.path.join(zoo, "multitask-spatial-1", "model.onnx"))
        self.head = Interpreter(os.path.join(zoo, "multitask-spatial-1", "head.onnx"))

    def __call__(self, hu, spacing_mm):
        """Evaluates a volume: a dictionary of figures and of masks on the source grid."""
        grid = grid_shape(hu.shape, spacing_mm)
        small = data.window(on_slices(lambda p: zoom_plane(p, grid), hu))
        lungs = on_slices(lambda p: torch.sigmoid(self.lungs(as_input(p))[0])[0, 0].numpy(), small)
        at_2mm = lungs >= LUNG_THRESHOLD
        if not at_2mm.any():
            raise NotEvaluated("no lungs found")
        box = bounding_box(at_2mm)
        crop = small[tuple(slice(*axis) for axis in box)]
        features, lesions = [], []
        for k in range(crop.shape[2]):
            maps, logits = self.multitask(as_input(crop[:, :, k]))
            features.append(maps[0])
            lesions.append(torch.sigmoid(logits)[0, 0].numpy())
        pyramid = pyramid_max_pool(torch.stack(features, dim=-1))
        probability = float(torch.sigmoid(self.head(pyramid[None])[0])[0, 0])

        inside = lungs[tuple(slice(*axis) for axis in box)]
        lung_mask = paste_back(inside, box, grid, hu.shape) >= LUNG_THRESHOLD
        lesion_mask = paste_back(np.stack(lesions, axis=-1), box, grid, hu.shape) >= LESION_THRESHOLD
        if not lung_mask.any():
            raise NotEvaluated("no lungs found")
        right, left = split_lungs(lung_mask)
        voxel_ml = float(np.prod(spacing_mm)) / 1000
        sides = {"left": left, "right": right}
        volume = {side: int(mask.sum()) for side, mask in sides.items()}
        lesion = {side: int((mask & lesion_mask).sum()) for side, mask in sides.items()}
        severity = {side: lesion[side] / volume[side] if volume[side] else 0.0 for side in sides}
        return {
            "shape": list(hu.shape),
            "spacing_mm": list(spacing_mm),
            "grid": list(grid),
            "box": [list(axis) for axis in box],
            "probability": probability,
            "severity": dict(severity, max=max(severity.values())),
            "lung_volume_ml": {side: n * voxel_ml for side, n in volume.items()},
            "lesion_volume_ml": {side: n * voxel_ml for side, n in lesion.items()},
            "lungs": lung_mask,
            "lesions": lesion_mask,
            "left": left,
            "pyramid": pyramid.numpy(),
        }


def write_golden(result, header, out):
    """`golden.json`, and the masks as bits (slice-major, first voxel in the highest bit), gzipped."""
    os.makedirs(out, exist_ok=True)
    golden = {k: v for k, v in result.items() if not isinstance(v, np.ndarray)}
    golden["series_uid"] = str(header.SeriesInstanceUID)
    for name in ("lungs", "lesions"):
        bits = np.packbits(result[name].transpose(2, 0, 1).ravel())
        with open(os.path.join(out, f"golden.{name}.bits.gz"), "wb") as file:
            file.write(gzip.compress(bits.tobytes(), mtime=0))
        golden[f"{name}_voxels"] = int(result[name].sum())
    with open(os.path.join(out, "golden.json"), "w") as file:
        json.dump(golden, file, indent=1)
        file.write("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--zoo", default="models/zoo")
    parser.add_argument("--series", help="SeriesInstanceUID, if the folder has several")
    parser.add_argument("--out", help="folder for golden.json and the masks")
    args = parser.parse_args()
    hu, spacing_mm, header = read_series(args.folder, args.series)
    result = Pipeline(args.zoo)(hu, spacing_mm)
    if args.out:
        write_golden(result, header, args.out)
    print(json.dumps({k: v for k, v in result.items() if not isinstance(v, np.ndarray)}))


if __name__ == "__main__":
    main()
