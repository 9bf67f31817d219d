"""Writes data/golden.json: what SciPy and PyTorch make of small inputs, for golden.rs. Needs numpy, scipy, torch.

    python kernels/tests/make_golden.py
"""

import json
from pathlib import Path

import numpy as np
import scipy.ndimage
import torch


def noise(count):
    """The same integers as `noise` in golden.rs: a linear congruential generator, high bits."""
    state, out = 12345, np.empty(count, np.float32)
    for i in range(count):
        state = (state * 1103515245 + 12345) % 2**31
        out[i] = (state >> 8) % 4096 - 1024
    return out


def zoom(shape, to):
    plane = noise(shape[0] * shape[1]).reshape(shape)
    out = scipy.ndimage.zoom(plane, np.array(to) / shape, order=1, mode="nearest")
    assert out.shape == tuple(to), (out.shape, to)
    return {"from": shape, "to": to, "values": out.ravel().tolist()}


def pool(channels, rows, columns, slices):
    """Pyramid max-pooling as in the paper's implementation: one max_pool3d a level, flattened, concatenated."""
    volume = torch.from_numpy(noise(channels * rows * columns * slices).reshape(1, channels, rows, columns, slices))
    levels = []
    for level in range(4):
        stride = [n // 2**level for n in (rows, columns, slices)]
        window = [n - (2**level - 1) * s for n, s in zip((rows, columns, slices), stride)]
        levels.append(torch.nn.functional.max_pool3d(volume, window, stride).flatten(1))
    return {"shape": [channels, rows, columns, slices], "values": torch.cat(levels, 1)[0].int().tolist()}


golden = {
    "zoom": [zoom(a, b) for a, b in [
        ([5, 7], [3, 4]), ([4, 6], [9, 13]), ([16, 9], [6, 9]), ([1, 5], [1, 3]), ([5, 2], [1, 5]), ([2, 4], [3, 188]),
    ]],
    "pool": [pool(1, 8, 8, 8), pool(2, 17, 23, 11), pool(1, 31, 16, 19)],
}
path = Path(__file__).parent / "data" / "golden.json"
path.write_text(json.dumps(golden) + "\n")
print(path, path.stat().st_size, "bytes")
