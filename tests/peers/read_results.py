"""What other software reads in a report and a segmentation that were received. REPORT [SEGMENTATION]

The report: highdicom's reader, dcmqi's tid1500reader. The segmentation: highdicom, dcmqi's segimage2itkimage, which must
agree with it bit for bit. Prints JSON.
"""
import gzip
import json
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import highdicom
import numpy
from pydicom import dcmread

PROGRAMS = Path(sysconfig.get_path("scripts"))


def dcmqi(program, *arguments):
    done = subprocess.run([PROGRAMS / program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def read_report(path, folder):
    report = highdicom.sr.srread(path)
    assert type(report) is highdicom.sr.ComprehensiveSR, type(report)
    values = {}

    def walk(items, place):
        for item in items:
            name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
            if name == "Tracking Identifier":
                place = item.TextValue
            value = None
            if item.ValueType == "NUM" and item.MeasuredValueSequence:
                measured = item.MeasuredValueSequence[0]
                value = [float(measured.NumericValue), measured.MeasurementUnitsCodeSequence[0].CodeValue]
            elif item.ValueType == "CODE":
                code = item.ConceptCodeSequence[0]
                value = f"{code.CodingSchemeDesignator} {code.CodeValue}"
            elif item.ValueType == "TEXT":
                value = item.TextValue
            if value is not None:
                values.setdefault(f"{place}/{name}", []).append(value)
            walk(item.get("ContentSequence", []), place)

    walk(dcmread(path).ContentSequence, "")
    dcmqi("tid1500reader", "--inputDICOM", path, "--outputMetadata", folder / "report.json")
    read = json.loads((folder / "report.json").read_text())
    evidence = [
        str(image.ReferencedSOPInstanceUID)
        for study in report.get("CurrentRequestedProcedureEvidenceSequence", [])
        for series in study.ReferencedSeriesSequence
        for image in series.ReferencedSOPSequence
    ]
    return {"values": values, "dcmqi_groups": len(read["Measurements"]), "evidence": evidence}


def read_nrrd(path):
    head, _, data = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\n") if ": " in line)
    assert fields["type"] in ("short", "unsigned char", "uint8"), fields
    kind = "<i2" if fields["type"] == "short" else "u1"
    data = gzip.decompress(data) if fields["encoding"] == "gzip" else data
    shape = [int(n) for n in fields["sizes"].split()][::-1]
    origin = [float(n) for n in fields["space origin"].strip("()").split(",")]
    directions = [float(v.strip("()").split(",")[i]) for i, v in enumerate(fields["space directions"].split(" "))]
    return numpy.frombuffer(data, kind).reshape(shape) != 0, origin, directions


def read_segmentation(path, folder):
    segmentation = highdicom.seg.segread(path)
    assert segmentation.segmentation_type.value == "BINARY"
    sources = [uid for _, _, uid in segmentation.get_source_image_uids()]
    volume = segmentation.get_volume(combine_segments=False)
    geometry = volume.get_geometry()
    dcmqi("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", folder, "--prefix", "s", "-t", "nrrd")
    voxel_ml = float(numpy.prod(volume.spacing)) / 1000
    segments = {}
    for number in segmentation.segment_numbers:
        ours = volume.array[..., number - 1] != 0
        theirs, origin, directions = read_nrrd(folder / f"s-{number}.nrrd")
        # dcmqi may turn the stack and cut slices off that are empty: compare by position.
        placed = numpy.zeros_like(ours)
        for index in range(theirs.shape[0]):
            z = origin[2] + directions[2] * index
            here = geometry.map_reference_to_indices(numpy.array([[origin[0], origin[1], z]]))[0]
            assert numpy.abs(here - numpy.round(here)).max() < 1e-3, here
            placed[int(round(here[0]))] = theirs[index]
        assert (placed == ours).all(), f"segment {number}: {placed.sum()} of dcmqi, {ours.sum()} of highdicom"
        description = segmentation.get_segment_description(number)
        segments[description.segment_label] = {
            "ml": float(ours.sum()) * voxel_ml,
            "type": description.segmented_property_type.value,
            "algorithm": str(description.algorithm_type.value),
        }
    return {"segments": segments, "shape": list(volume.array.shape[:3]), "sources": sorted(set(sources))}


with tempfile.TemporaryDirectory() as folder:
    said = {"report": read_report(sys.argv[1], Path(folder))}
    if len(sys.argv) > 2:
        said["segmentation"] = read_segmentation(sys.argv[2], Path(folder))
print(json.dumps(said))
