"""The thresholding baseline of Table 2: the rule, and its Dice on the radiologists' slices: `python -m triage_models.threshold DATA`.

Owns the rule as the paper gives it: -700 to 300 HU inside the lungs, Gaussian blur of sigma 4, more than 0.5, and components of
less than 0.1 % of the lungs' volume dropped. Its code is not public: here, as in the engine, sigma is in voxels of the 2 mm grid, the crop to the
lungs' box is mirrored at its edges, components touch by faces, and what is denser than 300 HU counts as 300, as the window leaves it. The
numbers were found by the paper on its own training data, not here.
"""

import argparse

import numpy as np
from scipy import ndimage

from . import data, demo_lungs, reference
from .interpret import Interpreter
from .layout import SHIPPED_LUNGS

HU_MIN, SIGMA, SMALLEST = -700.0, 4.0, 0.001


def lesions(hu, lungs):
    """Lesion mask of a slice or volume in HU, of a lung mask of the same grid."""
    dense = lungs & (hu >= HU_MIN)
    mask = ndimage.gaussian_filter(dense.astype(np.float32), SIGMA) > 0.5
    parts, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(parts.ravel())
    keep = sizes >= SMALLEST * lungs.sum()
    keep[0] = False
    return keep[parts]


def on_slice(net, sample):
    """Lesions of one picture at its own resolution, computed on the 2 mm grid in the lungs that the lung net finds in it."""
    small = ndimage.zoom(sample.hu, sample.pixel_mm / data.SPACING_MM, order=1)
    lungs = net(reference.as_input(data.window(small)))[0][0, 0].numpy() >= 0
    found = np.zeros(small.shape, np.float32)
    if lungs.any():
        box = tuple(slice(i.min(), i.max() + 1) for i in np.nonzero(lungs))
        found[box] = lesions(small[box], lungs[box])
    return ndimage.zoom(found, [n / m for n, m in zip(sample.hu.shape, found.shape)], order=1) >= 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="the demonstration's files")
    parser.add_argument("--lungs", default=SHIPPED_LUNGS, help="model.onnx of the lung net")
    args = parser.parse_args()
    net = Interpreter(args.lungs)
    samples = data.lesion_slices(args.data, "doctor_test")
    print(f"mean Dice over {len(samples)} slices: {np.mean([demo_lungs.dice(s.mask, on_slice(net, s)) for s in samples]):.4f}")
    # The pictures are cropped to the lungs, without a body around them: what the lung net finds there is not what it finds on a CT.
    whole = [demo_lungs.dice(s.mask, lesions(s.hu, np.ones(s.hu.shape, bool))) for s in samples]
    print(f"with the whole picture taken as lung, at its own resolution: {np.mean(whole):.4f}")


if __name__ == "__main__":
    main()
