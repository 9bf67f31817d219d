"""Reads raw downloads: NIfTI, MetaImage, DICOM series with their SEG and RTSTRUCT objects, tables.

Owns these formats and the orientation: every volume comes out as the layout has it, rows from front to back, columns from the patient's
right to left, slices from head to feet. Never writes. What can't be read faithfully is refused with its reason.
"""

import csv
import os
import zlib

import numpy as np
import pydicom

from .layout import LayoutError

# Slices may be off their even distance by this share of it; the paper's code refuses uneven series too.
GAP_TOLERANCE = 0.02
META_TYPES = {"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_FLOAT": "f4"}
AXIAL = (1, 0, 0, 0, 1, 0)


def nifti(path):
    """(array, spacing in mm): the closest canonical orientation, all axes reversed, the first two swapped."""
    import nibabel

    try:
        file = nibabel.as_closest_canonical(nibabel.load(path))
        array = np.asanyarray(file.dataobj)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, EOFError, zlib.error) as error:
        raise LayoutError(f"{os.path.basename(path)}: {error}") from error
    if array.ndim != 3:
        raise LayoutError(f"{os.path.basename(path)} has {array.ndim} axes")
    across, along, between = (float(z) for z in file.header.get_zooms())
    return np.swapaxes(array[::-1, ::-1, ::-1], 0, 1), (along, across, between)


def nifti_as_stored(path):
    """(array, spacing in mm) of a file whose axes are rows, columns, slices already."""
    import nibabel

    try:
        file = nibabel.load(path)
        return np.asanyarray(file.dataobj), tuple(float(z) for z in file.header.get_zooms())
    except (nibabel.filebasedimages.ImageFileError, EOFError, zlib.error) as error:
        raise LayoutError(f"{os.path.basename(path)}: {error}") from error


def metaimage(path):
    """(array, spacing in mm) of an .mhd file with its .raw or .zraw beside it."""
    with open(path, encoding="latin-1") as file:
        header = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in file)}
    name = os.path.basename(path)
    try:
        size = [int(n) for n in header["DimSize"].split()]
        spacing = [float(s) for s in header["ElementSpacing"].split()]
        kind = META_TYPES[header["ElementType"]]
        raw = header["ElementDataFile"]
    except KeyError as error:
        raise LayoutError(f"{name}: no or unknown {error}") from error
    if len(size) != 3 or os.path.basename(raw) != raw:
        raise LayoutError(f"{name}: size {size}, data in `{raw}`")
    matrix = np.array(header.get("TransformMatrix", "1 0 0 0 1 0 0 0 1").split(), float).reshape(3, 3)
    signs = np.sign(np.diag(matrix))
    if not np.allclose(np.abs(matrix), np.eye(3), atol=1e-3):
        raise LayoutError(f"{name}: axes {matrix.ravel().tolist()} are not those of the body")
    with open(os.path.join(os.path.dirname(path), raw), "rb") as file:
        blob = file.read()
    if header.get("CompressedData", "False") == "True":
        try:
            blob = zlib.decompress(blob)
        except zlib.error as error:
            raise LayoutError(f"{raw}: {error}") from error
    order = ">" if header.get("BinaryDataByteOrderMSB", "False") == "True" else "<"
    if len(blob) != np.prod(size) * np.dtype(kind).itemsize:
        raise LayoutError(f"{raw}: {len(blob)} bytes for {size} of {header['ElementType']}")
    array = np.frombuffer(blob, order + kind).reshape(size[::-1]).transpose(1, 2, 0)
    # Its axes: x to the left, y to the back, z to the head.
    array = array[:: int(signs[1]), :: int(signs[0]), :: -int(signs[2])]
    return array, (spacing[1], spacing[0], spacing[2])


class Series:
    """One axial CT series: image, spacing, and where its voxels are."""

    def __init__(self, headers):
        self.uid = str(headers[0].SeriesInstanceUID)
        for header in headers:
            if not np.allclose(np.array(header.ImageOrientationPatient, float), AXIAL, atol=1e-2):
                raise LayoutError(f"orientation {list(header.ImageOrientationPatient)} is not axial")
        headers = sorted(headers, key=lambda h: -float(h.ImagePositionPatient[2]))
        self.z = np.array([float(h.ImagePositionPatient[2]) for h in headers])
        gaps = -np.diff(self.z)
        if not len(gaps) or gaps.min() <= 0 or np.ptp(gaps) > GAP_TOLERANCE * gaps.mean():
            raise LayoutError(f"{len(headers)} slices, from {min(gaps, default=0):.3f} to {max(gaps, default=0):.3f} mm apart")
        self.origin = np.array(headers[0].ImagePositionPatient, float)
        planes = [h.pixel_array * float(h.get("RescaleSlope", 1)) + float(h.get("RescaleIntercept", 0)) for h in headers]
        if len({p.shape for p in planes}) != 1:
            raise LayoutError("slices of different sizes")
        self.image = np.stack(planes, axis=2)
        self.spacing_mm = (*(float(v) for v in headers[0].PixelSpacing), float(gaps.mean()))

    def slice_at(self, z):
        """The slice at a height, or none."""
        nearest = int(np.argmin(np.abs(self.z - z)))
        return nearest if abs(self.z[nearest] - z) < self.spacing_mm[2] / 2 else None


def dicom_files(folder):
    """{series UID: headers} of all DICOM files below a folder."""
    series = {}
    for root, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            try:
                header = pydicom.dcmread(os.path.join(root, name))
            except (pydicom.errors.InvalidDicomError, EOFError):
                continue
            if "SeriesInstanceUID" in header:
                series.setdefault(str(header.SeriesInstanceUID), []).append(header)
    return series


def earliest_ct(series):
    """The CT series of the earliest study; among several the one with the most slices."""
    groups = [group for group in series.values() if group[0].get("Modality") == "CT"]
    if not groups:
        raise LayoutError("no CT series")
    return Series(min(groups, key=lambda g: (str(g[0].get("StudyDate", "")), -len(g))))


def segmentation(header, ct, wanted):
    """The union of the segments of a SEG whose label `wanted` accepts, or none."""
    numbers = {int(s.SegmentNumber) for s in header.SegmentSequence if wanted(str(s.SegmentLabel))}
    if not numbers:
        return None
    frames = header.pixel_array
    frames = frames[None] if frames.ndim == 2 else frames
    if frames.shape[1:] != ct.image.shape[:2]:
        raise LayoutError(f"SEG of {frames.shape[1:]} for slices of {ct.image.shape[:2]}")
    mask = np.zeros(ct.image.shape, bool)
    for frame, groups in zip(frames, header.PerFrameFunctionalGroupsSequence):
        if int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber) in numbers:
            k = ct.slice_at(float(groups.PlanePositionSequence[0].ImagePositionPatient[2]))
            if k is not None:
                mask[:, :, k] |= frame > 0
    return mask


def inside(points, shape):
    """Pixels whose centre lies inside a polygon of (row, column) points, by the even-odd rule."""
    grid = np.arange(shape[1])
    crossings = np.zeros(shape, int)
    for (row, column), (next_row, next_column) in zip(points, np.roll(points, -1, axis=0)):
        low, high = sorted((row, next_row))
        for y in range(max(0, int(np.ceil(low))), min(shape[0], int(np.ceil(high)))):
            x = column + (y - row) * (next_column - column) / (next_row - row)
            crossings[y] += grid >= x
    return crossings % 2 == 1


def structures(header, ct, wanted):
    """The union of the structures of an RTSTRUCT whose name `wanted` accepts, or none."""
    numbers = {int(roi.ROINumber) for roi in header.StructureSetROISequence if wanted(str(roi.ROIName))}
    mask, found = np.zeros(ct.image.shape, bool), False
    for roi in header.ROIContourSequence:
        if int(roi.ReferencedROINumber) not in numbers:
            continue
        # A contour inside another of the same structure is a hole.
        own = np.zeros(ct.image.shape, bool)
        for contour in roi.get("ContourSequence", []):
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            k = ct.slice_at(points[0, 2])
            if k is not None:
                rows, columns = ((points[:, a] - ct.origin[a]) / ct.spacing_mm[1 - a] for a in (1, 0))
                own[:, :, k] ^= inside(np.stack([rows, columns], axis=1), own.shape[:2])
                found = True
        mask |= own
    return mask if found else None


def table(path):
    """The rows of a .csv or .xlsx file as dictionaries; keys in lower case."""
    if path.endswith(".xlsx"):
        import openpyxl

        rows = [["" if v is None else str(v) for v in row] for row in openpyxl.load_workbook(path, read_only=True).active.values]
    else:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    return [dict(zip((key.strip().lower() for key in rows[0]), row)) for row in rows[1:] if any(row)]
