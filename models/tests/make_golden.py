"""Writes the goldens of golden.rs: the reference pipeline (PyTorch, SciPy) on a small synthetic chest.

    python models/tests/make_golden.py                   for the zoo's weights: models/zoo/golden.json
    python models/tests/make_golden.py --tiny            makes the tiny nets of the tests and their golden

Needs the packages of models/training. Run it again whenever the weights change.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "training"))

from triage_models import export, nets, reference  # noqa: E402

# Slices, rows, columns; and the same order in mm.
SHAPE = (14, 90, 112)
SPACING_MM = (7.5, 2.9, 2.4)


def chest():
    """HU, slice-major; `chest` in golden.rs computes the same integers."""
    slices, rows, columns = SHAPE
    s, r, c = np.meshgrid(*[np.arange(n, dtype=np.int64) for n in SHAPE], indexing="ij")
    height = 10 + np.minimum(s, slices - 1 - s)
    hu = np.full(SHAPE, -1000, np.int64)
    hu[9 * (r - 45) ** 2 + 5 * (c - 56) ** 2 <= 12600] = 40
    for centre in (33, 79):
        hu[(r - 44) ** 2 + 3 * (c - centre) ** 2 <= (height + 12) ** 2] = -850
    hu[(r - 55) ** 2 + (c - 30) ** 2 + 4 * (s - 7) ** 2 <= 80] = -250
    index = (s * rows + r) * columns + c
    return (hu + ((index * 2654435761 % 2**32) >> 25) - 64).astype(np.float32)


def runs(mask):
    """Run lengths of a mask in memory order, starting with the voxels outside it."""
    flat = np.concatenate([[False], mask.ravel(), [not mask.ravel()[-1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], edges])).tolist()


def golden(zoo):
    hu = chest()
    slice_mm, row_mm, column_mm = SPACING_MM
    result = reference.Pipeline(str(zoo))(np.ascontiguousarray(hu.transpose(1, 2, 0)), (row_mm, column_mm, slice_mm))
    masks = {name: result[name].transpose(2, 0, 1) for name in ("lungs", "lesions", "left")}
    files = ["lungs/model.onnx", "multitask-spatial-1/model.onnx", "multitask-spatial-1/head.onnx"]
    return {
        "made_by": "models/tests/make_golden.py",
        "sha256": {name: hashlib.sha256((zoo / name).read_bytes()).hexdigest() for name in files},
        "hu_sum": int(hu.sum(dtype=np.int64)),
        "box": result["box"],
        "grid": result["grid"],
        "probability": result["probability"],
        "severity": result["severity"],
        "lung_volume_ml": result["lung_volume_ml"],
        "lesion_volume_ml": result["lesion_volume_ml"],
        "runs": {name: runs(mask) for name, mask in masks.items()},
    }


def shake(net):
    """Random weights and batch-norm statistics that are not the defaults."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.6, 1.4)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def tiny_zoo(zoo):
    """The paper's nets with 8 channels at every level and 4 hidden units: all operators, a few kilobytes."""
    nets.DOWN = ((8, 8),) * 6
    nets.BRIDGE = (8, 8)
    nets.UP_LUNGS = nets.UP_MULTITASK = ((8, 8),) * 6
    text = {"version": "0", "licence": "MIT OR Apache-2.0", "data": {"training": "none: random weights for tests"}}
    text.update(quality={}, not_measured={})
    for seed in range(1000):
        torch.manual_seed(seed)
        lungs, multitask = shake(nets.LungNet()), shake(nets.MultitaskSpatial())
        multitask.identification.hidden = torch.nn.Linear(nets.PYRAMID_SIZE, 4)
        multitask.identification.out = torch.nn.Linear(4, 1, bias=False)
        with torch.no_grad():
            multitask.identification.out.weight *= 4
        export.write(str(zoo / "lungs"), "lungs", lungs, text)
        export.write(str(zoo / "multitask-spatial-1"), "multitask-spatial-1", multitask, text)
        try:
            made = golden(zoo)
        except reference.NotEvaluated:
            continue
        # A net whose answers tell right from wrong: part of the volume, both sides, neither certain.
        severity, crop = made["severity"], made["box"]
        inside = all(0 < start and stop < size for (start, stop), size in zip(crop[:2], made["grid"]))
        if inside and min(severity["left"], severity["right"]) > 0.02 and severity["max"] < 0.9:
            if 0.1 < made["probability"] < 0.9:
                print("seed", seed)
                return made
    raise SystemExit("no seed gives useful nets")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="make the tiny nets and their golden")
    parser.add_argument("--zoo", type=Path, default=HERE.parent / "zoo")
    args = parser.parse_args()
    torch.set_num_threads(1)
    zoo = HERE / "tiny" if args.tiny else args.zoo
    made = tiny_zoo(zoo) if args.tiny else golden(zoo)
    path = zoo / "golden.json"
    path.write_text(json.dumps(made) + "\n")
    print(path, path.stat().st_size, "bytes;", {k: made[k] for k in ("box", "grid", "probability", "severity")})


if __name__ == "__main__":
    main()
