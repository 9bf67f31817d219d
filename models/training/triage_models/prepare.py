"""Brings a raw public download into the paper's layout: `python -m triage_models.prepare SOURCE RAW_DIR OUT_DIR`.

Owns what each download looks like, and which files of it are which. All sources may share one OUT_DIR: an id that another source has already
is refused. A case that can't be used is listed with its reason, in `reports/SOURCE.json` too, and costs no other case. What is there already is
kept, so an interrupted run is simply started again; a case whose raw files have changed since, or got a mask, is made again.

| SOURCE | RAW_DIR holds |
|---|---|
| mosmed-1110 | `studies/CT-0` to `CT-4` (or `ct0` to `ct4`) with `study_*.nii.gz`, `masks/study_*_mask.nii.gz`, `dataset_registry.xlsx` or .csv if there is one |
| medseg-20 | `COVID-19-CT-Seg_20cases`, `Infection_Mask` and `Lung_Mask`, each `<case>.nii.gz` |
| medseg-9 | `rp_im`, `rp_msk` and `rp_lung_msk`, each `1.nii.gz` to `9.nii.gz` |
| nsclc-radiomics | `NSCLC-Radiomics/<patient>/...` DICOM, `Thoracic_Cavities/<patient>/*.nii.gz`; patients without are left out, as in the paper |
| luna16 | `subset0` to `subset9` with `<series UID>.mhd`, `seg-lungs-LUNA16/<series UID>.mhd` |
| mosmed-test | `covid`, `bacterial_pneumonia`, `nodules` and `normal`, each `images/<id>.nii.gz`; `covid/masks/<id>/<rater>.nii.gz` |
"""

import argparse
import glob
import os
import re
import sys

import numpy as np

from . import raw
from .data import WINDOW_HU
from .layout import DataSet, LayoutError, stamps, write_json

SUFFIX = ".nii.gz"
META_ENDINGS = (".mhd", ".raw", ".zraw")
LUNA_LUNGS = (3, 4)  # 5 is the trachea.
TEST_GROUPS = ("covid", "bacterial_pneumonia", "nodules", "normal")
# What a single case may fail with; anything else is a fault of this program.
FAULTS = (LayoutError, OSError, ValueError, KeyError, AttributeError, EOFError, RuntimeError)


def stem(path):
    return os.path.basename(path)[: -len(SUFFIX)]


def whole(array):
    return np.round(np.asarray(array, np.float64)).astype(np.int16)


def hu_of(array):
    """HU, also of pictures: values that are all whole and from 0 to 255 are put on the window, as the paper's code does."""
    array = np.asarray(array, np.float64)
    if array.min() >= 0 and array.max() <= 255 and (array == np.round(array)).all():
        low, high = WINDOW_HU
        array = low + array * (high - low) / 255
    return whole(array)


class Source:
    """Cases of a download: {id: (function that gives image, spacing and, by name, lungs, label, masks; its files)}, and subsets.

    `refused`: cases that are there and must not be used, with the reason; `missing`: cases that are not there.
    """

    def __init__(self, folder):
        self.folder, self.cases, self.subsets, self.refused, self.missing = folder, {}, {}, {}, {}

    def files(self, *parts):
        return sorted(glob.glob(os.path.join(self.folder, *parts), recursive=True))

    def add(self, id_, load, files, *subsets):
        """`files`: all that `load` reads, or would if it were there; folders stand for all that is in them."""
        if id_ in self.cases:
            raise LayoutError(f"case {id_} is there twice")
        self.cases[id_] = load, files
        for name in subsets:
            self.subsets.setdefault(name, []).append(id_)


def mosmed_1110(folder):
    source = Source(folder)
    masks = {stem(p)[: -len("_mask")]: p for p in source.files("**", "masks", f"*_mask{SUFFIX}")}

    def load(path, mask, category):
        image, spacing = raw.nifti(path)
        found = {"mosmed": raw.nifti(mask)[0] > 0} if mask else {}
        return whole(image), spacing, {"label": category > 0, "masks": found}

    folders = {}
    for path in source.files("**", f"*{SUFFIX}"):
        category = re.fullmatch(r"ct-?([0-4])", os.path.basename(os.path.dirname(path)).lower())
        if category:
            number = int(category[1])
            folders[stem(path)] = number
            mask = masks.get(stem(path))
            source.add(stem(path), lambda p=path, m=mask, n=number: load(p, m, n), [path, mask] if mask else [path], f"CT-{number}")
    for path in source.files("dataset_registry.*"):
        check_registry(source, path, folders)
    return source


def check_registry(source, path, folders):
    """Cases whose folder and whose line in the registry differ are refused."""
    for row in raw.table(path):
        name = os.path.basename(row.get("study_file") or row.get("study_id", ""))
        name = name[: -len(SUFFIX)] if name.endswith(SUFFIX) else name
        category = re.search(r"([0-4])\s*$", row.get("category", ""))
        if name and name not in folders:
            source.missing[name] = "in the registry, but no file of it"
        elif category and folders[name] != int(category[1]):
            source.refused[name] = f"{row['category']} in the registry, in the folder of CT-{folders[name]}"


def medseg(folder, images, lesions, lungs, prefix=""):
    source = Source(folder)

    def load(path):
        name = os.path.basename(path)
        image, spacing = raw.nifti(path)
        masks = [raw.nifti(os.path.join(folder, part, name))[0] > 0 for part in (lesions, lungs)]
        image = hu_of(image)
        # These lie the other way round than their masks, as the paper's code has it.
        if name.startswith("radiopaedia"):
            image = image[::-1]
        if stem(name) == "radiopaedia_7_85703_0":
            image = image[..., ::-1]
        if masks[1].shape == image.shape and masks[1].any():
            inside = np.median(image[masks[1]])
            if inside > -400:
                raise LayoutError(f"the lung mask does not lie on lung: half of it is over {inside:.0f} HU; another orientation?")
        return image, spacing, {"lungs": masks[1], "label": True, "masks": {"medseg": masks[0]}}

    for path in source.files(images, f"*{SUFFIX}"):
        parts = [os.path.join(folder, part, os.path.basename(path)) for part in (images, lesions, lungs)]
        source.add(prefix + stem(path), lambda p=path: load(p), parts)
    return source


def lung_label(name):
    return "lung" in name.lower()


def nsclc_radiomics(folder, objects=False):
    """`objects`: patients without a thoracic cavity too, with the lungs of their SEG or RTSTRUCT; the paper takes the 402 with one."""
    source = Source(folder)

    def load(patient, cavities):
        series = raw.dicom_files(patient)
        ct, lungs = raw.earliest_ct(series), None
        if cavities:
            lungs = raw.nifti(cavities[0])[0] > 0
        else:
            readers = {"SEG": raw.segmentation, "RTSTRUCT": raw.structures}
            objects = [(readers[h.get("Modality")], h) for group in series.values() for h in group if h.get("Modality") in readers]
            found = (read(header, ct, lung_label) for read, header in objects)
            lungs = next((mask for mask in found if mask is not None and mask.any()), None)
        # The paper's code leaves out series without lungs.
        if lungs is None:
            raise LayoutError("no lungs: neither a thoracic cavity, nor a SEG or RTSTRUCT with lungs")
        return whole(ct.image), ct.spacing_mm, {"lungs": lungs, "label": False, "id": ct.uid}

    for path in source.files("NSCLC-Radiomics", "*", ""):
        patient = os.path.basename(os.path.dirname(path))
        cavities = source.files("Thoracic_Cavities", patient, f"*thor_cav*{SUFFIX}") or source.files("Thoracic_Cavities", patient, f"*{SUFFIX}")
        source.add(patient, lambda p=path, c=cavities: load(p, c), [path, *cavities])
        if not cavities and not objects:
            source.refused[patient] = "no thoracic cavity (--lungs-of-objects takes the lungs of its SEG or RTSTRUCT, which the paper does not)"
    return source


def luna16(folder):
    source = Source(folder)

    def load(path):
        image, spacing = raw.metaimage(path)
        mask_path = os.path.join(folder, "seg-lungs-LUNA16", os.path.basename(path))
        if not os.path.exists(mask_path):
            raise LayoutError("no lung mask")
        labels, _ = raw.metaimage(mask_path)
        lungs = np.isin(labels, LUNA_LUNGS)
        if any(not (labels == label).any() for label in LUNA_LUNGS):
            raise LayoutError("a broken lung mask: a lung is missing in it")
        return whole(image), spacing, {"lungs": lungs}

    for path in source.files("subset*", "*.mhd"):
        uid = os.path.basename(path)[: -len(".mhd")]
        parts = [os.path.join(place, uid + end) for place in (os.path.dirname(path), os.path.join(folder, "seg-lungs-LUNA16")) for end in META_ENDINGS]
        source.add(uid, lambda p=path: load(p), parts)
    return source


def mosmed_test(folder):
    source = Source(folder)

    def load(path, group, masks):
        image, spacing = raw.nifti_as_stored(path)
        found = {stem(m): raw.nifti_as_stored(m)[0] > 0 for m in masks}
        return whole(image), spacing, {"label": group == "covid", "masks": found}

    for group in TEST_GROUPS:
        for path in source.files(group, "images", f"*{SUFFIX}"):
            masks = source.files("covid", "masks", stem(path), f"*{SUFFIX}") if group == "covid" else []
            source.add(stem(path), lambda p=path, g=group, m=masks: load(p, g, m), [path, *masks], group)
    return source


SOURCES = {
    "mosmed-1110": mosmed_1110,
    "medseg-20": lambda folder: medseg(folder, "COVID-19-CT-Seg_20cases", "Infection_Mask", "Lung_Mask"),
    "medseg-9": lambda folder: medseg(folder, "rp_im", "rp_msk", "rp_lung_msk", prefix="rp_"),
    "nsclc-radiomics": nsclc_radiomics,
    "luna16": luna16,
    "mosmed-test": mosmed_test,
}


def is_of(dataset, id_, name, case):
    origin = dataset.origin(id_) or {}
    return (origin.get("source"), origin.get("case")) == (name, case)


def check_free(dataset, id_, name, case):
    """An error where a series has the id that is not this case's."""
    origin = dataset.origin(id_)
    if origin is not None and not is_of(dataset, id_, name, case):
        owner = f"case {origin['case']} of {origin['source']}" if origin else f"a series that `prepare` did not write ({dataset.path('images', id_)})"
        raise LayoutError(f"the id {id_} belongs to {owner}: prepare one of them into a folder of its own")


def bring_in(dataset, source, name, case, id_):
    """One case, unless it is there already as `id_` and made from the same files: its id."""
    if case in source.refused:
        raise LayoutError(source.refused[case])
    load, files = source.cases[case]
    origin, known = {"source": name, "case": case, "files": stamps(source.folder, files)}, id_
    if dataset.origin(id_) == origin:
        return id_
    image, spacing_mm, parts = load()
    id_ = parts.pop("id", case)
    check_free(dataset, id_, name, case)
    dataset.write(id_, image, spacing_mm, origin=origin, **parts)
    if known != id_:
        withdraw(dataset, known, name, case)
    return id_


def withdraw(dataset, id_, name, case):
    """Takes out what an earlier run made of a case."""
    if is_of(dataset, id_, name, case):
        dataset.remove(id_)


def write_record(dataset, source, name, done, broken):
    write_json(dataset.path("reports", f"{name}.json"), {"source": name, "done": done, "broken": broken})
    for subset, cases in {**source.subsets, name: list(done)}.items():
        dataset.write_subset(subset, [done[c] for c in cases if c in done])


def prepare(name, folder, out, **options):
    """Brings one source in: ({case: id} of the good ones, {case: why} of the broken ones)."""
    source, dataset = SOURCES[name](folder, **options), DataSet(out)
    known = dataset.read_report(name)
    # Those of an earlier run stay in the record until their turn, so that an interruption loses none.
    done, broken = {case: id_ for case, id_ in known.items() if case in source.cases and is_of(dataset, id_, name, case)}, dict(source.missing)
    for number, case in enumerate(source.cases, 1):
        id_ = known.get(case, case)
        try:
            done[case] = bring_in(dataset, source, name, case, id_)
            print(f"{number}/{len(source.cases)} {case}", flush=True)
        except FAULTS as error:
            done.pop(case, None)
            withdraw(dataset, id_, name, case)
            broken[case] = f"{type(error).__name__}: {error}" if not isinstance(error, LayoutError) else str(error)
            print(f"{number}/{len(source.cases)} {case} is left out: {broken[case]}", flush=True)
        # After every case: a run may be interrupted at any time, and training must know the test set.
        write_record(dataset, source, name, done, broken)
    return done, broken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=SOURCES)
    parser.add_argument("raw", help="folder of the download, unpacked")
    parser.add_argument("out", help="folder of the prepared data set")
    parser.add_argument("--lungs-of-objects", action="store_true", help="nsclc-radiomics: patients without a thoracic cavity too; not the paper's")
    args = parser.parse_args()
    if args.lungs_of_objects and args.source != "nsclc-radiomics":
        parser.error("--lungs-of-objects is for nsclc-radiomics")
    done, broken = prepare(args.source, args.raw, args.out, **({"objects": True} if args.lungs_of_objects else {}))
    print(f"{len(done)} cases prepared, {len(broken)} left out")
    if not done:
        sys.exit(f"prepare: nothing of {args.source} in {args.raw}; `--help` tells what is looked for")


if __name__ == "__main__":
    main()
