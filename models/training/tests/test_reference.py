"""The reference pipeline, step by step, and whole on a made-up chest."""

import gzip
import json
import os

import numpy as np
import pytest

from paper_like import randomize
from triage_models import data, export, reference
from triage_models.nets import LungNet, MultitaskSpatial
from test_export import DESCRIPTION


def test_grid_shape_rounds_halves_to_even():
    assert reference.grid_shape((512, 512), (0.748046875, 0.748046875)) == (192, 192)
    assert reference.grid_shape((5, 7), (1.0, 1.0)) == (2, 4)
    assert reference.grid_shape((3, 3), (0.1, 0.1)) == (1, 1)


@pytest.mark.parametrize("n, m", [(512, 162), (512, 191), (7, 3), (4, 9), (5, 1)])
def test_zoom_aligns_corners(n, m):
    ramp = np.arange(n, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)
    out = reference.zoom_plane(ramp, (m, 2))[:, 0]
    want = np.arange(m) * ((n - 1) / (m - 1)) if m > 1 else np.zeros(1)
    assert np.allclose(out, want, atol=1e-3)


def test_window_comes_after_clipping():
    assert data.window(np.array([-3024.0, -1000.0, -350.0, 300.0, 3000.0])).tolist() == [0, 0, 0.5, 1, 1]


def test_paste_back_rounds_the_box_inwards_and_is_zero_outside():
    crop = np.ones((4, 6, 2), np.float32)
    out = reference.paste_back(crop, [(3, 7), (0, 6), (1, 3)], (10, 10), (25, 25, 4))
    assert reference.bounding_box(out > 0) == [(8, 17), (0, 15), (1, 3)]
    assert set(np.unique(out)) == {0.0, 1.0}


def test_a_box_that_vanishes_has_no_lesions():
    assert not reference.paste_back(np.ones((1, 9, 1), np.float32), [(3, 4), (0, 9), (0, 1)], (10, 10), (4, 4, 1)).any()


def test_split_finds_the_two_lungs_also_in_tall_volumes():
    mask = np.zeros((10, 40, 120), bool)
    mask[:, 2:14] = True
    mask[:, 24:38] = True
    right, left = reference.split_lungs(mask)
    assert right[:, :20].sum() == right.sum() == 10 * 12 * 120
    assert left[:, 20:].sum() == left.sum() == 10 * 14 * 120


def test_split_of_a_single_voxel_is_the_right_lung():
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    right, left = reference.split_lungs(mask)
    assert right.sum() == 1 and left.sum() == 0


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("zoo"))
    export.write(os.path.join(folder, "lungs"), "lungs", randomize(LungNet(), 7), DESCRIPTION)
    export.write(os.path.join(folder, "multitask-spatial-1"), "multitask-spatial-1", randomize(MultitaskSpatial(), 8), DESCRIPTION)
    return folder


def write_series(folder, hu, spacing_mm):
    """A minimal CT series, written feet first under names that are not the order."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    series = generate_uid()
    for k in range(hu.shape[2]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        header = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        header.is_little_endian, header.is_implicit_VR = True, False
        header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        header.Modality, header.SeriesInstanceUID = "CT", series
        header.ImagePositionPatient = [0, 0, -spacing_mm[2] * k]
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        header.PixelSpacing = list(spacing_mm[:2])
        header.RescaleSlope, header.RescaleIntercept = 1, -1024
        header.Rows, header.Columns = hu.shape[:2]
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
        header.PixelData = (hu[:, :, k] + 1024).astype(np.uint16).tobytes()
        header.save_as(os.path.join(folder, f"{(7 * k) % hu.shape[2]:03}.dcm"), write_like_original=False)
    (open(os.path.join(folder, "notes.txt"), "w")).write("not DICOM")
    return pydicom


def test_whole_pipeline_on_a_made_up_series(zoo, tmp_path):
    rng = np.random.RandomState(0)
    hu = rng.randint(-1024, 400, (40, 44, 9)).astype(np.int16)
    write_series(str(tmp_path), hu, (1.5, 1.5, 5.0))
    read, spacing_mm, header = reference.read_series(str(tmp_path))
    assert np.array_equal(read, hu) and spacing_mm == (1.5, 1.5, 5.0)
    result = reference.Pipeline(zoo)(read, spacing_mm)
    assert result["grid"] == [30, 33] and result["pyramid"].shape == (4680,)
    for side, mask in (("left", result["left"]), ("right", result["lungs"] & ~result["left"])):
        assert result["lung_volume_ml"][side] == pytest.approx(mask.sum() * 1.5 * 1.5 * 5 / 1000)
    assert 0 < result["probability"] < 1 and result["lungs"].shape == hu.shape
    reference.write_golden(result, header, str(tmp_path / "golden"))
    golden = json.loads((tmp_path / "golden" / "golden.json").read_text())
    bits = np.frombuffer(gzip.decompress((tmp_path / "golden" / "golden.lungs.bits.gz").read_bytes()), np.uint8)
    mask = np.unpackbits(bits)[: hu.size].reshape(9, 40, 44).transpose(1, 2, 0)
    assert np.array_equal(mask.astype(bool), result["lungs"]) and golden["lungs_voxels"] == mask.sum()
    assert golden["severity"]["max"] == max(golden["severity"]["left"], golden["severity"]["right"])


def test_no_ct_is_no_answer(tmp_path):
    pytest.importorskip("pydicom")
    with pytest.raises(reference.NotEvaluated, match="no CT series"):
        reference.read_series(str(tmp_path))
