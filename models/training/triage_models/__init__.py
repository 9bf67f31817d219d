"""The two nets of `triaged`: architectures, training, export and conversion.

Never part of the appliance: what the daemon runs is the ONNX that `export` writes.
"""
