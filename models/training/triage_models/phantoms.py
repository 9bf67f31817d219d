"""Packs digital phantoms for training: `python -m triage_models.phantoms FOLDER OUT.npz`.

FOLDER holds folders that `triaged phantom` wrote, each with its `truth`. Owns the packed file: per
phantom `<name>_hu` int16 and `<name>_labels` uint8 [rows, columns, slices] on a 1 mm grid (1 right lung,
2 left lung, 4 added where diseased), and `<name>_slice_mm`.
"""

import argparse
import os

import numpy as np

from .reference import on_slices, read_series, zoom_plane

GRID_MM = 1.0


def pack(folder):
    """One phantom: (HU int16, labels uint8) on the 1 mm grid, and the distance of its slices."""
    hu, spacing_mm, _ = read_series(folder)
    labels = np.load(os.path.join(folder, "truth", "labels.npy")).transpose(1, 2, 0)
    shape = [int(round(n * s / GRID_MM)) for n, s in zip(hu.shape, spacing_mm[:2])]
    rows, columns = (np.round(np.linspace(0, n - 1, m)).astype(int) for n, m in zip(hu.shape, shape))
    hu = np.round(on_slices(lambda p: zoom_plane(p, shape), hu)).astype(np.int16)
    return hu, np.ascontiguousarray(labels[rows][:, columns]), spacing_mm[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("out")
    args = parser.parse_args()
    packed = {}
    for name in sorted(os.listdir(args.folder)):
        folder = os.path.join(args.folder, name)
        if os.path.isdir(os.path.join(folder, "truth")):
            packed[f"{name}_hu"], packed[f"{name}_labels"], packed[f"{name}_slice_mm"] = pack(folder)
    np.savez(args.out, **packed)
    print(f"{len(packed) // 3} phantoms")


if __name__ == "__main__":
    main()
