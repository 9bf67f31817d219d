"""Data preparation, on small made-up copies of each raw layout: orientation, labels, masks, broken cases."""

import csv
import json
import os
import zlib

import numpy as np
import pytest

from triage_models import layout, paper, prepare, raw

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")

ROWS, COLUMNS, SLICES = 9, 12, 5
SPACING = (0.7, 0.8, 3.0)  # rows, columns, slices


def chest(seed=0):
    """(HU, lungs, lesion) as the layout has them: each voxel different, so that no flip goes unseen."""
    rng = np.random.RandomState(seed)
    hu = rng.permutation(ROWS * COLUMNS * SLICES).reshape(ROWS, COLUMNS, SLICES) + 300
    lungs = np.zeros(hu.shape, bool)
    lungs[1:5, 1:5, 1:4] = lungs[1:4, 7:11, 1:4] = True
    lesion = np.zeros(hu.shape, bool)
    lesion[2:4, 2:4, 2] = True
    return np.where(lungs, hu - 1200, hu).astype(np.int16), lungs, lesion


def write_nifti(path, array, signs=(-1, -1, 1), order=(0, 1, 2)):
    """A volume of the layout as NIfTI; `signs` and `order` are how the file stores its axes."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    stored = np.swapaxes(array, 0, 1)[::-1, ::-1, ::-1]  # now to the right, to the front, to the head
    affine = np.diag([SPACING[1], SPACING[0], SPACING[2], 1.0])
    image = nibabel.Nifti1Image(np.ascontiguousarray(stored.astype(np.int16)), affine)
    wanted = np.array([[axis, sign] for axis, sign in zip(order, signs)])
    nibabel.save(image.as_reoriented(nibabel.orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], wanted)), path)


def check(out, id_, hu, lungs=None, lesion=None, rater=None, label=None):
    dataset = layout.DataSet(out)
    assert np.array_equal(dataset.image(id_), hu) and dataset.image(id_).dtype == np.int16
    assert dataset.spacing_mm(id_) == pytest.approx(SPACING)
    assert dataset.label(id_) is label
    assert dataset.has_lungs(id_) == (lungs is not None) and (lungs is None or np.array_equal(dataset.lungs(id_), lungs))
    assert dataset.raters(id_) == ([rater] if rater else [])
    assert rater is None or np.array_equal(dataset.covid_mask(id_, rater), lesion)


@pytest.mark.parametrize("signs", [(-1, -1, 1), (1, 1, 1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_nifti_of_any_orientation(tmp_path, signs, order):
    hu, _, _ = chest()
    write_nifti(str(tmp_path / "a.nii.gz"), hu, signs, order)
    array, spacing = raw.nifti(str(tmp_path / "a.nii.gz"))
    assert np.array_equal(array, hu) and spacing == pytest.approx(SPACING)


@pytest.mark.parametrize("folders, registry", [("studies/CT-{}", "xlsx"), ("ct{}", None), ("studies/CT-{}", "csv")])
def test_mosmed_1110(tmp_path, folders, registry):
    base, out = str(tmp_path / "raw"), str(tmp_path / "out")
    categories = {"study_0001": 0, "study_0255": 1, "study_0256": 4, "study_0300": 2}
    for number, (name, category) in enumerate(categories.items()):
        write_nifti(os.path.join(base, folders.format(category), name + ".nii.gz"), chest(number)[0])
    write_nifti(os.path.join(base, "masks", "study_0255_mask.nii.gz"), chest(1)[2])
    with open(os.path.join(base, folders.format(2), "study_0301.nii.gz"), "wb") as file:
        file.write(b"\x1f\x8b cut short")
    rows = [["study_id", "study_file", "mask_file", "category"]]
    rows += [[n, f"/studies/CT-{c}/{n}.nii.gz", "", f"CT-{c}"] for n, c in categories.items()]
    rows[-1][-1] = "CT-3"
    rows.append(["study_9999", "/studies/CT-1/study_9999.nii.gz", "", "CT-1"])
    if registry == "csv":
        with open(os.path.join(base, "dataset_registry.csv"), "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    elif registry == "xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(os.path.join(base, "dataset_registry.xlsx"))
    done, broken = prepare.prepare("mosmed-1110", base, out)
    check(out, "study_0001", chest(0)[0], label=False)
    check(out, "study_0255", chest(1)[0], lesion=chest(1)[2], rater="mosmed", label=True)
    check(out, "study_0256", chest(2)[0], label=True)
    assert set(broken) == {"study_0301"} | ({"study_0300", "study_9999"} if registry else set())
    if registry:
        assert "CT-3 in the registry, in the folder of CT-2" in broken["study_0300"] and "no file" in broken["study_9999"]
    dataset = layout.DataSet(out)
    assert dataset.subset("CT-4") == ["study_0256"] and dataset.subset("mosmed-1110") == sorted(done)
    assert json.load(open(os.path.join(out, "reports", "mosmed-1110.json")))["broken"] == broken


def test_medseg_20(tmp_path):
    base, out = str(tmp_path / "raw"), str(tmp_path / "out")
    pictures = {}
    for number, name in enumerate(["coronacases_001", "radiopaedia_10_85902_1", "radiopaedia_7_85703_0", "coronacases_002"]):
        hu, lungs, lesion = chest(number)
        image = hu
        if name.startswith("radiopaedia"):
            # Pictures of 8 bit, upside down against their masks; one head to feet, too.
            pictures[name] = np.clip((hu.astype(float) + 1000) / 1300 * 255, 0, 255).round().astype(np.int16)
            image = pictures[name][::-1]
            image = image[..., ::-1] if "85703" in name else image
        if name == "coronacases_002":
            image = hu[::-1]
        write_nifti(f"{base}/COVID-19-CT-Seg_20cases/{name}.nii.gz", image)
        write_nifti(f"{base}/Infection_Mask/{name}.nii.gz", lesion)
        # 1 and 2: left and right lung.
        write_nifti(f"{base}/Lung_Mask/{name}.nii.gz", lungs * np.where(np.arange(COLUMNS)[None, :, None] < 6, 2, 1))
    done, broken = prepare.prepare("medseg-20", base, out)
    check(out, "coronacases_001", *chest(0), rater="medseg", label=True)
    for number, name in ((1, "radiopaedia_10_85902_1"), (2, "radiopaedia_7_85703_0")):
        want = np.round(pictures[name].astype(float) * 1300 / 255 - 1000).astype(np.int16)
        check(out, name, want, *chest(number)[1:], rater="medseg", label=True)
        assert abs(want - np.clip(chest(number)[0], -1000, 300)).max() <= 4
    assert set(broken) == {"coronacases_002"} and "does not lie on lung" in broken["coronacases_002"]


def test_medseg_9(tmp_path):
    base, out = str(tmp_path / "raw"), str(tmp_path / "out")
    for name in ("1", "2"):
        hu, lungs, lesion = chest(int(name))
        write_nifti(f"{base}/rp_im/{name}.nii.gz", hu)
        write_nifti(f"{base}/rp_msk/{name}.nii.gz", 2 * lesion)
        write_nifti(f"{base}/rp_lung_msk/{name}.nii.gz", lungs[..., 1:] if name == "2" else lungs)
    done, broken = prepare.prepare("medseg-9", base, out)
    check(out, "rp_1", *chest(1), rater="medseg", label=True)
    assert set(done) == {"rp_1"} and "(9, 12, 4) for an image of (9, 12, 5)" in broken["rp_2"]
    assert layout.DataSet(out).ids == ["rp_1"], "a broken case is not in the data set"


def header_of(uid, series, modality, sop_class, study_date="20080101"):
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.1.2.1", sop_class, uid
    header = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID, header.SeriesInstanceUID = sop_class, uid, series
    header.Modality, header.StudyDate, header.PatientName = modality, study_date, "made up"
    return header


def write_ct(folder, hu, series, date="20080101", skip=()):
    os.makedirs(folder, exist_ok=True)
    # File names in another order than the slices.
    for k in range(SLICES):
        if k in skip:
            continue
        header = header_of(f"{series}.{k + 1}", series, "CT", "1.2.840.10008.5.1.4.1.1.2", date)
        header.Rows, header.Columns, header.PixelSpacing = ROWS, COLUMNS, list(SPACING[:2])
        header.ImagePositionPatient, header.ImageOrientationPatient = [-40.0, -60.0, 100.0 - k * SPACING[2]], [1, 0, 0, 0, 1, 0]
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
        header.RescaleSlope, header.RescaleIntercept = 1, -1024
        header.PixelData = (hu[:, :, k].astype(np.int32) + 1024).astype(np.uint16).tobytes()
        header.save_as(os.path.join(folder, f"{(k * 7) % 11}.dcm"))


def write_seg(path, lungs):
    from pydicom.dataset import Dataset

    header = header_of("1.2.9.1", "1.2.9", "SEG", "1.2.840.10008.5.1.4.1.1.66.4")
    segments, groups, frames = [], [], []
    for number, (label, side) in enumerate((("Lung-Left", slice(6, None)), ("Heart", slice(0, 12)), ("Lung-Right", slice(0, 6))), 1):
        segment = Dataset()
        segment.SegmentNumber, segment.SegmentLabel = number, label
        segments.append(segment)
        for k in (3, 2, 1):
            group, place, which = Dataset(), Dataset(), Dataset()
            place.ImagePositionPatient = [-40.0, -60.0, 100.0 - k * SPACING[2]]
            which.ReferencedSegmentNumber = number
            group.PlanePositionSequence, group.SegmentIdentificationSequence = [place], [which]
            groups.append(group)
            frame = np.zeros((ROWS, COLUMNS), np.uint8)
            frame[:, side] = 1 if label == "Heart" else lungs[:, side, k]
            frames.append(frame)
    header.SegmentSequence, header.PerFrameFunctionalGroupsSequence = segments, groups
    header.Rows, header.Columns, header.NumberOfFrames = ROWS, COLUMNS, len(frames)
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 1, 1, 0, 0
    bits = np.packbits(np.stack(frames).ravel(), bitorder="little").tobytes()
    header.PixelData = bits + b"\0" * (len(bits) % 2)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    header.save_as(path)


def write_rtstruct(path):
    """Both lungs of `chest` as rectangles half a pixel outside the centres; a heart; a hole of one pixel in the left lung."""
    from pydicom.dataset import Dataset

    header = header_of("1.2.8.1", "1.2.8", "RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3")
    rois, contours = [], []
    boxes = {"Lung-Right": [(1, 5, 1, 5)], "Lung-Left": [(1, 4, 7, 11), (2, 3, 8, 9)], "Heart": [(0, 9, 0, 12)]}
    for number, (name, rectangles) in enumerate(boxes.items(), 1):
        roi, contour = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        contour.ReferencedROINumber, contour.ContourSequence = number, []
        for top, bottom, left, right in rectangles:
            for k in (1, 2, 3):
                item = Dataset()
                corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
                item.ContourData = [
                    float(v) for r, c in corners for v in (-40 + (c - 0.5) * SPACING[1], -60 + (r - 0.5) * SPACING[0], 100 - k * SPACING[2])
                ]
                contour.ContourSequence.append(item)
        rois.append(roi), contours.append(contour)
    header.StructureSetROISequence, header.ROIContourSequence = rois, contours
    os.makedirs(os.path.dirname(path), exist_ok=True)
    header.save_as(path)


def test_nsclc_radiomics(tmp_path):
    base, out = str(tmp_path / "raw"), str(tmp_path / "out")
    ct = lambda n: f"{base}/NSCLC-Radiomics/LUNG1-00{n}"  # noqa: E731
    write_ct(f"{ct(1)}/01-01-2008-study/CT", chest(1)[0], "1.2.1")
    write_ct(f"{ct(1)}/05-05-2009-later/CT", chest(9)[0], "1.2.99", date="20090505")
    write_nifti(f"{base}/Thoracic_Cavities/LUNG1-001/LUNG1-001_thor_cav_primary_reviewer.nii.gz", chest(1)[1])
    write_ct(f"{ct(2)}/study/CT", chest(2)[0], "1.2.2")
    write_seg(f"{ct(2)}/study/seg/1.dcm", chest(2)[1])
    write_ct(f"{ct(3)}/study/CT", chest(3)[0], "1.2.3")
    write_rtstruct(f"{ct(3)}/study/rt/1.dcm")
    write_ct(f"{ct(4)}/study/CT", chest(4)[0], "1.2.4", skip=(2,))
    write_ct(f"{ct(5)}/study/CT", chest(5)[0], "1.2.5")
    os.makedirs(ct(6))
    done, broken = prepare.prepare("nsclc-radiomics", base, out)
    assert done == {"LUNG1-001": "1.2.1"} and all("no thoracic cavity" in why for why in broken.values()), "the paper's are those with a cavity"
    assert set(broken) == {f"LUNG1-00{n}" for n in (2, 3, 4, 5, 6)}
    done, broken = prepare.prepare("nsclc-radiomics", base, out, objects=True)
    assert done == {f"LUNG1-00{n}": f"1.2.{n}" for n in (1, 2, 3)}
    for n in (1, 2):
        check(out, f"1.2.{n}", *chest(n)[:2], label=False)
    hole = chest(3)[1].copy()
    hole[2, 8, 1:4] = False
    check(out, "1.2.3", chest(3)[0], hole, label=False)
    assert "from 3.000 to 6.000 mm apart" in broken["LUNG1-004"]
    assert "no lungs" in broken["LUNG1-005"] and broken["LUNG1-006"] == "no CT series"
    done, _ = prepare.prepare("nsclc-radiomics", base, out)
    assert set(done) == {"LUNG1-001"} and layout.DataSet(out).ids == ["1.2.1"], "without the option they are out again"


def write_mhd(path, array, signs=(1, 1, 1), packed=False, kind="MET_SHORT", cut=0):
    """x to the left, y to the back, z to the head, each the other way where its sign is -1."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    stored = array[:, :, ::-1].transpose(2, 0, 1)[:: signs[2], :: signs[1], :: signs[0]]
    blob = np.ascontiguousarray(stored.astype(raw.META_TYPES[kind])).tobytes()
    blob = zlib.compress(blob) if packed else blob
    data_name = os.path.basename(path).replace(".mhd", ".zraw" if packed else ".raw")
    with open(os.path.join(os.path.dirname(path), data_name), "wb") as file:
        file.write(blob[: len(blob) - cut])
    with open(path, "w") as file:
        file.write("ObjectType = Image\nNDims = 3\nBinaryDataByteOrderMSB = False\n")
        file.write(f"CompressedData = {packed}\nTransformMatrix = {signs[0]} 0 0 0 {signs[1]} 0 0 0 {signs[2]}\n")
        file.write(f"ElementSpacing = {SPACING[1]} {SPACING[0]} {SPACING[2]}\nDimSize = {COLUMNS} {ROWS} {SLICES}\n")
        file.write(f"ElementType = {kind}\nElementDataFile = {data_name}\n")


def test_luna16(tmp_path):
    base, out = str(tmp_path / "raw"), str(tmp_path / "out")
    sides = np.where(np.arange(COLUMNS)[None, :, None] < 6, 4, 3)
    for n, signs in ((1, (1, 1, 1)), (2, (-1, -1, 1)), (3, (1, 1, 1)), (4, (1, 1, 1)), (5, (1, 1, 1))):
        hu, lungs, lesion = chest(n)
        write_mhd(f"{base}/subset{n}/1.3.{n}.mhd", hu, signs, cut=2 if n == 4 else 0)
        labels = np.where(lesion, 5, lungs * sides)
        if n == 3:
            labels[labels == 4] = 0
        if n != 5:
            write_mhd(f"{base}/seg-lungs-LUNA16/1.3.{n}.mhd", labels, signs, packed=True, kind="MET_UCHAR")
    done, broken = prepare.prepare("luna16", base, out)
    for n in (1, 2):
        check(out, f"1.3.{n}", chest(n)[0], chest(n)[1] & ~chest(n)[2])
    assert set(done) == {"1.3.1", "1.3.2"}
    assert "a lung is missing" in broken["1.3.3"] and "bytes for" in broken["1.3.4"] and broken["1.3.5"] == "no lung mask"


def write_as_stored(path, array):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), np.diag([*SPACING, 1])), path)


def test_mosmed_test(tmp_path):
    base, out = str(tmp_path / "raw"), str(tmp_path / "out")
    for n, group in enumerate(prepare.TEST_GROUPS):
        write_as_stored(f"{base}/{group}/images/case{n}.nii.gz", chest(n)[0])
    for rater in ("rater1", "rater2"):
        write_as_stored(f"{base}/covid/masks/case0/{rater}.nii.gz", chest(0)[2])
    done, broken = prepare.prepare("mosmed-test", base, out)
    dataset = layout.DataSet(out)
    assert len(done) == 4 and not broken and dataset.raters("case0") == ["rater1", "rater2"]
    assert np.array_equal(dataset.covid_mask("case0", "rater2"), chest(0)[2])
    for n, group in enumerate(prepare.TEST_GROUPS):
        assert dataset.subset(group) == [f"case{n}"] and dataset.label(f"case{n}") == (group == "covid")
        assert np.array_equal(dataset.image(f"case{n}"), chest(n)[0])


def test_what_is_there_is_kept_and_an_interrupted_case_is_made_again(tmp_path, monkeypatch):
    base, out = str(tmp_path / "raw"), str(tmp_path / "out")
    for n in (1, 2):
        write_nifti(f"{base}/ct1/study_{n}.nii.gz", chest(n)[0])
    first = prepare.prepare("mosmed-1110", base, out)
    os.remove(os.path.join(out, "images", "study_2", "spacing.json"))
    read, real = [], raw.nifti
    monkeypatch.setattr(raw, "nifti", lambda path: (read.append(os.path.basename(path)), real(path))[1])
    assert prepare.prepare("mosmed-1110", base, out) == first
    assert read == ["study_2.nii.gz"]
    check(out, "study_2", chest(2)[0], label=True)


def test_an_id_of_another_source_is_refused(tmp_path):
    out = str(tmp_path / "out")
    write_nifti(str(tmp_path / "a" / "ct1" / "study_1.nii.gz"), chest(1)[0])
    write_as_stored(str(tmp_path / "b" / "normal" / "images" / "study_1.nii.gz"), chest(2)[0])
    prepare.prepare("mosmed-1110", str(tmp_path / "a"), out)
    done, broken = prepare.prepare("mosmed-test", str(tmp_path / "b"), out)
    assert not done and "belongs to case study_1 of mosmed-1110" in broken["study_1"]
    check(out, "study_1", chest(1)[0], label=True)
    dataset = layout.DataSet(out)
    assert dataset.subset("mosmed-test") == [] and dataset.subset("mosmed-1110") == ["study_1"]
    # A series that nothing is recorded of is nobody's.
    dataset.write("study_1", chest(3)[0], SPACING)
    assert "did not write" in prepare.prepare("mosmed-1110", str(tmp_path / "a"), out)[1]["study_1"]


def test_two_patients_with_one_series_uid_are_not_one(tmp_path):
    base, out = str(tmp_path / "raw"), str(tmp_path / "out")
    for n in (1, 2):
        write_ct(f"{base}/NSCLC-Radiomics/LUNG1-00{n}/CT", chest(n)[0], "1.2.7")
        write_nifti(f"{base}/Thoracic_Cavities/LUNG1-00{n}/LUNG1-00{n}_thor_cav.nii.gz", chest(n)[1])
    for _ in range(2):
        done, broken = prepare.prepare("nsclc-radiomics", base, out)
        assert done == {"LUNG1-001": "1.2.7"} and "case LUNG1-001" in broken["LUNG1-002"]
        check(out, "1.2.7", *chest(1)[:2], label=False)


class Interrupted(BaseException):
    """As Ctrl-C would."""


@pytest.mark.parametrize("at", ["spacing.json", "mosmed-test.json"])
def test_interrupted_test_studies_are_not_trained_on(tmp_path, monkeypatch, at):
    base, out = str(tmp_path / "raw"), str(tmp_path / "out")
    for n in range(3):
        write_as_stored(f"{base}/normal/images/case{n}.nii.gz", chest(n)[0])
    real, count = layout.write_json, []

    def write_json(path, value):
        real(path, value)
        count.append(os.path.basename(path))
        if count.count(at) == 2:
            raise Interrupted

    monkeypatch.setattr(layout, "write_json", write_json)
    monkeypatch.setattr(prepare, "write_json", write_json)
    with pytest.raises(Interrupted):
        prepare.prepare("mosmed-test", base, out)
    dataset = layout.DataSet(out)
    assert dataset.ids == ["case0", "case1"], "two are finished"
    assert dataset.subset("mosmed-test") == ["case0"] and dataset.ids_of("mosmed-test") == ["case0", "case1"]
    assert paper.groups_of(dataset, "multitask-spatial-1")[paper.NEGATIVE] == []
    monkeypatch.undo()
    prepare.prepare("mosmed-test", base, out)
    assert dataset.subset("mosmed-test") == dataset.subset("normal") == ["case0", "case1", "case2"]


def test_an_interrupted_repetition_loses_nothing(tmp_path, monkeypatch):
    base, out = str(tmp_path / "raw"), str(tmp_path / "out")
    for n in (1, 2, 3):
        write_nifti(f"{base}/ct1/study_{n}.nii.gz", chest(n)[0])
    prepare.prepare("mosmed-1110", base, out)
    dataset, real = layout.DataSet(out), prepare.bring_in

    def stop_at_second(dataset, source, name, case, id_):
        if case == "study_2":
            raise Interrupted
        return real(dataset, source, name, case, id_)

    monkeypatch.setattr(prepare, "bring_in", stop_at_second)
    with pytest.raises(Interrupted):
        prepare.prepare("mosmed-1110", base, out)
    assert dataset.subset("CT-1") == dataset.subset("mosmed-1110") == ["study_1", "study_2", "study_3"]


def test_a_mask_that_arrives_later_gets_in(tmp_path, monkeypatch):
    base, out = str(tmp_path / "raw"), str(tmp_path / "out")
    for n in (1, 2):
        write_nifti(f"{base}/ct1/study_{n}.nii.gz", chest(n)[0])
    prepare.prepare("mosmed-1110", base, out)
    write_nifti(f"{base}/masks/study_2_mask.nii.gz", chest(2)[2])
    read, real = [], raw.nifti
    monkeypatch.setattr(raw, "nifti", lambda path: (read.append(os.path.basename(path)), real(path))[1])
    prepare.prepare("mosmed-1110", base, out)
    assert read == ["study_2.nii.gz", "study_2_mask.nii.gz"]
    check(out, "study_2", chest(2)[0], lesion=chest(2)[2], rater="mosmed", label=True)
    # And goes again; another image takes the old one's place.
    os.remove(f"{base}/masks/study_2_mask.nii.gz")
    write_nifti(f"{base}/ct1/study_1.nii.gz", chest(5)[0])
    prepare.prepare("mosmed-1110", base, out)
    check(out, "study_2", chest(2)[0], label=True)
    check(out, "study_1", chest(5)[0], label=True)
    # One that can't be read any more is not in the data set either.
    with open(f"{base}/ct1/study_1.nii.gz", "wb") as file:
        file.write(b"cut")
    done, broken = prepare.prepare("mosmed-1110", base, out)
    assert set(done) == {"study_2"} and set(broken) == {"study_1"} and layout.DataSet(out).ids == ["study_2"]


def test_a_category_that_the_registry_came_to_doubt_takes_the_case_out(tmp_path):
    base, out = str(tmp_path / "raw"), str(tmp_path / "out")
    write_nifti(f"{base}/ct1/study_1.nii.gz", chest(1)[0])
    assert prepare.prepare("mosmed-1110", base, out)[0]
    with open(f"{base}/dataset_registry.csv", "w", encoding="utf-8") as file:
        file.write("study_file,category\n/studies/CT-0/study_1.nii.gz,CT-0\n")
    done, broken = prepare.prepare("mosmed-1110", base, out)
    assert not done and "CT-0 in the registry" in broken["study_1"] and layout.DataSet(out).ids == []


def test_working_copies_follow_the_data_set(tmp_path):
    dataset = layout.made_up(str(tmp_path), series=3)
    copies, id_ = layout.WorkingCopies(dataset, crop=True), "made-up-2"
    copies.make(id_)
    image, times = np.array(copies.image(id_)), []
    times.append(os.stat(os.path.join(copies.folder(id_), "image.npy")).st_mtime_ns)
    copies.make(id_)
    times.append(os.stat(os.path.join(copies.folder(id_), "image.npy")).st_mtime_ns)
    assert times[0] == times[1], "made again for nothing"
    lesion = np.zeros(dataset.image(id_).shape, bool)
    lesion[20:30, 10:20, 5:9] = True
    layout.write_array(dataset.path("covid_masks", id_, "late", "covid_mask.npy"), lesion)
    copies.make(id_)
    assert copies.mask(id_, "covid-late").sum() > 0 and np.array_equal(copies.image(id_), image)
    lungs = dataset.lungs(id_)
    lungs[:, :, :6] = False
    layout.write_array(dataset.path("lungs_masks", id_, "lungs_mask.npy"), lungs)
    copies.make(id_)
    assert copies.image(id_).shape[2] < image.shape[2], "still cropped to the old lungs"


def test_ids_that_would_leave_their_folder_are_refused(tmp_path):
    dataset = layout.DataSet(str(tmp_path))
    for id_ in ("", ".", "..", "../a", "a/b"):
        with pytest.raises(layout.LayoutError, match="can't be an id"):
            dataset.write(id_, chest()[0], SPACING)


def test_a_folder_with_nothing_of_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["prepare", "luna16", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="nothing of luna16"):
        prepare.main()
