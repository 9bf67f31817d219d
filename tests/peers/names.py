"""Patients' names as pydicom reads them: of each FILE the text and the bytes, as JSON."""
import json
import sys

from pydicom import dcmread

names = []
for path in sys.argv[1:]:
    name = dcmread(path, stop_before_pixels=True).PatientName
    names.append({"name": str(name), "name_hex": name.original_string.hex()})
print(json.dumps(names))
