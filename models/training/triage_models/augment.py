"""Random geometry, intensity and synthetic opacities.

Owns every random change of a training image; never reads files. All functions take a numpy
RandomState and are deterministic in it. Opacities are pasted with the lung mask left as it is: so
the lung net learns that a consolidated lung is still lung, and the lesion net gets exact masks.
"""

import numpy as np
from scipy import ndimage


def smooth_field(rng, shape, cells):
    """A smooth random field of unit scale: coarse noise of about `cells` cells an axis, enlarged."""
    coarse = [max(2, min(n, int(round(cells * n / max(shape))) + 1)) for n in shape]
    field = rng.standard_normal(coarse).astype(np.float32)
    field = ndimage.zoom(field, [n / c for n, c in zip(shape, coarse)], order=1, mode="nearest")
    return field / max(field.std(), 1e-6)


def lesion_mask(rng, lungs, extent, cells):
    """A random part of a lung of about the fraction `extent`: patchy, often pleural and dorsal."""
    shape = lungs.shape
    field = smooth_field(rng, shape, cells) + 0.4 * smooth_field(rng, shape, 3 * cells)
    if rng.rand() < 0.6:
        depth = ndimage.distance_transform_edt(lungs)
        field -= rng.uniform(0.5, 3.0) * depth / max(depth.max(), 1.0)
    for axis in range(len(shape)):
        if rng.rand() < 0.5:
            ramp = np.linspace(-1, 1, shape[axis], dtype=np.float32) * rng.uniform(-1.0, 3.0 if axis != 1 else 1.0)
            field += ramp.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return lungs & (field >= np.quantile(field[lungs], 1.0 - extent))


def opacity(rng, hu, mask, solid):
    """Ground glass or consolidation in `mask`: raises HU with soft edges and texture."""
    shape = hu.shape
    alpha = ndimage.gaussian_filter(mask.astype(np.float32), rng.uniform(0.4, 1.0))
    alpha *= ndimage.binary_dilation(mask)
    if solid:
        target = rng.uniform(-60, 70) + 25 * smooth_field(rng, shape, 40)
        strength = rng.uniform(0.85, 1.0)
    else:
        target = rng.uniform(-720, -250) + rng.uniform(20, 110) * smooth_field(rng, shape, 25)
        target += rng.uniform(0, 80) * smooth_field(rng, shape, 60)
        strength = 1.0
    # Vessels, denser than the opacity, stay visible; the noise of the image stays in part.
    changed = np.maximum(hu, target + 0.3 * (hu + 850.0).clip(-150, 150))
    return hu + alpha * strength * (changed - hu)


def paste_lesions(rng, hu, lungs, full=0.15, most=1.0):
    """Ground glass and consolidation in each lung part: returns (hu, lesions).

    `full` is the chance of an extent over 80 %, `most` the largest extent.
    """
    lesions = np.zeros(lungs.shape, bool)
    parts, count = ndimage.label(lungs)
    for part in range(1, count + 1):
        region = parts == part
        if region.sum() < 60 or rng.rand() < 0.2:
            continue
        extent = rng.uniform(0.8, 1.0) if rng.rand() < full else rng.beta(0.7, 1.3)
        extent = min(max(extent, 0.01), most)
        mask = lesion_mask(rng, region, extent, rng.uniform(3, 14)) if extent < 0.99 else region
        kind = rng.rand()
        if kind < 0.45:
            hu = opacity(rng, hu, mask, solid=False)
        elif kind < 0.7:
            hu = opacity(rng, hu, mask, solid=True)
        else:
            hu = opacity(rng, hu, mask, solid=False)
            core = lesion_mask(rng, mask, rng.uniform(0.1, 0.7), rng.uniform(4, 14))
            hu = opacity(rng, hu, core, solid=True)
        lesions |= mask
    return hu, lesions


def geometry(rng, hu, masks, pixel_mm, size, rotation_deg=15.0, scale=1.25, prone=0.1, quarter=0.0, edge=0.0):
    """Random zoom about 2 mm, rotation, flips and shift onto a canvas of `size` (rows, columns).

    `prone` and `quarter` are the chances of an upside-down and of a quarter-turned image. Outside
    the image is its minimum, as for the original's resampling, or with the chance `edge` its edge.
    """
    turns = rng.randint(1, 4) if rng.rand() < quarter else 0
    mode = "nearest" if rng.rand() < edge else "constant"
    hu, masks = np.rot90(hu, turns), [np.rot90(m, turns) for m in masks]
    angle = np.deg2rad(rng.uniform(-rotation_deg, rotation_deg))
    factor = 2.0 / pixel_mm * np.exp(rng.uniform(-np.log(scale), np.log(scale)))
    stretch = np.exp(rng.uniform(-0.08, 0.08, 2))
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * factor * stretch
    if rng.rand() < 0.5:
        matrix[:, 1] *= -1
    if rng.rand() < prone:
        matrix[:, 0] *= -1
    # Shift at random where the image is larger than the canvas, else by a few pixels.
    slack = np.maximum(np.array(hu.shape) - np.array(size) * factor, 0) / 2 + 6
    centre = (np.array(hu.shape) - 1) / 2 + rng.uniform(-1, 1, 2) * slack
    offset = centre - matrix @ ((np.array(size) - 1) / 2)
    if factor > 1.2:
        hu = ndimage.gaussian_filter(hu, 0.25 * factor * rng.rand())
    out = ndimage.affine_transform(hu, matrix, offset, size, order=1, mode=mode, cval=float(hu.min()))
    warped = [
        ndimage.affine_transform(m.astype(np.float32), matrix, offset, size, order=1, mode=mode) >= 0.5 for m in masks
    ]
    return out, warped


def intensity(rng, hu):
    """Calibration error, quantum noise and the blur or sharpness of a kernel."""
    hu = hu * rng.uniform(0.95, 1.05) + rng.normal(0, 15)
    kind = rng.rand()
    if kind < 0.25:
        hu = ndimage.gaussian_filter(hu, rng.uniform(0.2, 0.8))
    elif kind < 0.4:
        hu = hu + rng.uniform(0, 0.8) * (hu - ndimage.gaussian_filter(hu, 1.0))
    if rng.rand() < 0.7:
        noise = rng.standard_normal(hu.shape).astype(np.float32)
        if rng.rand() < 0.5:
            noise = 1.5 * ndimage.gaussian_filter(noise, 0.6)
        hu = hu + rng.uniform(0, 45) * noise
    return hu


def paste_bowel(rng, hu, lungs):
    """Gas, stool or a meal in the soft tissue below the lungs: what a lung net must not take for lung.

    For slices with little lung or none; the mask stays as it is.
    """
    body = ndimage.binary_erosion((hu > -200) & (hu < 250), iterations=4)
    body &= ~ndimage.binary_dilation(lungs, iterations=4)
    places = np.argwhere(body)
    if len(places) < 500:
        return hu
    rows, columns = np.indices(hu.shape).astype(np.float32)
    for _ in range(rng.randint(1, 4)):
        centre = places[rng.randint(len(places))]
        radii = rng.uniform(3, 32, 2) if rng.rand() < 0.6 else rng.uniform(2, 10, 2)
        blob = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2
        blob += 0.3 * smooth_field(rng, hu.shape, 12)
        alpha = ndimage.gaussian_filter(((blob < 1) & body).astype(np.float32), 0.6)
        kind = rng.rand()
        if kind < 0.35:
            inside = np.full(hu.shape, rng.uniform(-1000, -850), np.float32)
        elif kind < 0.75:
            # Mottled: bubbles of gas in what is as dense as tissue, or lighter.
            bubbles = smooth_field(rng, hu.shape, rng.uniform(20, 60)) > rng.uniform(0.3, 1.8)
            inside = np.where(bubbles, rng.uniform(-900, -300), rng.uniform(-300, 80)).astype(np.float32)
            inside = ndimage.gaussian_filter(inside, rng.uniform(0.3, 1.0))
        else:
            # A level: gas in front, fluid behind.
            inside = np.where(rows < centre[0] + rng.uniform(-5, 5), -950.0, rng.uniform(0, 60)).astype(np.float32)
        hu = hu + alpha * (inside - hu)
    return hu
