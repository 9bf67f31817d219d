"""What 8-bit integers would do to the results: the reference pipeline, its 3 x 3 convolutions rounded as an int8 engine would.

Weights: signed, a scale for each output channel. Inputs (behind a ReLU, so never negative): unsigned, a scale for each convolution, from
the largest value that it has on every third slice of the series to calibrate with. Sums are exact. For each series it prints probability, severity
and the lesions' overlap, in float and so rounded; models/README.md has the figures and what follows.

    python -m triage_models.int8_trial SERIES_FOLDER... --calibrate SERIES_FOLDER... --zoo ../zoo
"""

import argparse

import numpy as np
import torch
from torch.nn import functional

from . import reference

FLOAT, CALIBRATE, ROUND = range(3)


class Rounding:
    """Stands in for `conv2d`."""

    def __init__(self):
        self.conv2d, self.mode, self.largest = functional.conv2d, FLOAT, {}

    def __call__(self, x, weight, bias=None, *arguments, **options):
        if self.mode == FLOAT or weight.shape[1] < 8 or weight.shape[2] != 3:
            return self.conv2d(x, weight, bias, *arguments, **options)
        # Weights are widened anew for each call: known again by what they are.
        key = (tuple(weight.shape), float(weight.flatten()[0]), float(weight.flatten()[-1]))
        if self.mode == CALIBRATE:
            self.largest[key] = max(self.largest.get(key, 0.0), float(x.max()))
            return self.conv2d(x, weight, bias, *arguments, **options)
        step = self.largest[key] / 255
        steps = weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127
        x = torch.clamp(torch.round(x / step), 0, 255) * step
        return self.conv2d(x, torch.round(weight / steps) * steps, bias, *arguments, **options)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--calibrate", nargs="+", required=True)
    parser.add_argument("--zoo", default="models/zoo")
    args = parser.parse_args()
    rounding = Rounding()
    functional.conv2d = rounding
    pipeline = reference.Pipeline(args.zoo)
    rounding.mode = CALIBRATE
    for folder in args.calibrate:
        hu, (rows, columns, gap), _ = reference.read_series(folder)
        pipeline(np.ascontiguousarray(hu[:, :, ::3]), (rows, columns, 3 * gap))
    for folder in args.folders:
        hu, spacing_mm, _ = reference.read_series(folder)
        results = []
        for rounding.mode in (FLOAT, ROUND):
            results.append(pipeline(hu, spacing_mm))
        a, b = results
        both = int((a["lesions"] & b["lesions"]).sum())
        overlap = 2 * both / max(1, int(a["lesions"].sum()) + int(b["lesions"].sum()))
        apart = max(abs(a["severity"][side] - b["severity"][side]) for side in ("left", "right"))
        print(
            f"{folder}: probability {a['probability']:.3f}, as int8 {b['probability']:.3f}; severity {100 * apart:.2f} points apart; "
            f"Dice of the lesions {overlap:.4f}"
        )


if __name__ == "__main__":
    main()
