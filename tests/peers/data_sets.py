"""Brings phantoms (DICOM with truth/labels.npy) into the paper's layout and into NIfTI with a CSV.

    python data_sets.py PHANTOMS LABELS.json PAPER NIFTI

LABELS.json: {id: [group, category or ""]}.
"""

import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom

phantoms, labels, paper, nifti = map(Path, sys.argv[1:5])
labels = json.loads(labels.read_text())


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


rows, subsets = ["id,group,category,lungs,lesions"], {}
for name, (group, category) in labels.items():
    slices = [pydicom.dcmread(path) for path in sorted((phantoms / name).glob("*.dcm"))]
    slices.sort(key=lambda s: -float(s.ImagePositionPatient[2]))
    hu = np.stack([s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices], -1).astype(np.int16)
    truth = np.load(phantoms / name / "truth/labels.npy").transpose(1, 2, 0)
    lungs, lesions = truth & 3 != 0, truth & 4 != 0
    spacing = [float(v) for v in slices[0].PixelSpacing]
    spacing.append(abs(float(slices[0].ImagePositionPatient[2]) - float(slices[1].ImagePositionPatient[2])))

    save(paper / "images" / name / "image.npy", hu)
    (paper / "images" / name / "spacing.json").write_text(json.dumps(spacing))
    save(paper / "lungs_masks" / name / "lungs_mask.npy", lungs)
    for rater in ("first", "second"):
        save(paper / "covid_masks" / name / rater / "covid_mask.npy", np.asfortranarray(lesions))
    label = paper / "covid_labels" / name / "covid_label.json"
    label.parent.mkdir(parents=True)
    label.write_text(json.dumps(group == "covid"))
    subsets.setdefault(group, []).append(name)
    if category:
        subsets.setdefault(category, []).append(name)

    # As scanners' converters write it: right, front, head upwards, columns first.
    affine = np.diag([spacing[1], spacing[0], spacing[2], 1.0])
    nifti.mkdir(exist_ok=True)
    for array, ending in ((hu, ""), (lungs.astype(np.uint8), "-lungs"), (lesions.astype(np.uint8), "-lesions")):
        turned = array[::-1, ::-1, ::-1].transpose(1, 0, 2)
        nibabel.save(nibabel.Nifti1Image(turned, affine), nifti / f"{name}{ending}.nii.gz")
    rows.append(f"{name},{group},{category},{name}-lungs.nii.gz,{name}-lesions.nii.gz")

for subset, ids in subsets.items():
    path = paper / "subsets" / subset / "ids.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(ids))
(nifti / "labels.csv").write_text("\n".join(rows) + "\n")
