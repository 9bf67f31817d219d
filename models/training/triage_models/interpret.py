"""Runs the zoo's ONNX graphs with PyTorch, node by node, in float32.

Owns the few operators that `export` writes and refuses every other. It is the reference that the
appliance's engines are compared with, so it is kept free of any ONNX runtime.
"""

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch.nn import functional


class Unsupported(Exception):
    """A node outside the zoo's operators."""


def conv(x, weight, bias=None, *, kernel_shape, pads):
    return functional.conv2d(x, weight, bias, padding=(pads[0], pads[1]))


def batch_norm(x, scale, shift, mean, var, *, epsilon):
    return functional.batch_norm(x, mean, var, scale, shift, False, 0.0, epsilon)


def max_pool(x, *, kernel_shape, strides, ceil_mode):
    return functional.max_pool2d(x, kernel_shape, strides, ceil_mode=bool(ceil_mode))


def resize(x, roi, scales, sizes, *, mode, coordinate_transformation_mode):
    if (mode, coordinate_transformation_mode) != (b"linear", b"half_pixel"):
        raise Unsupported(f"Resize {mode} {coordinate_transformation_mode}")
    return functional.interpolate(x, size=[int(n) for n in sizes[2:]], mode="bilinear", align_corners=False)


def gemm(x, weight, bias=None, *, transB):
    return functional.linear(x, weight if transB else weight.T, bias)


OPERATORS = {
    "Conv": conv,
    "BatchNormalization": batch_norm,
    "MaxPool": max_pool,
    "Resize": resize,
    "Gemm": gemm,
    "GlobalMaxPool": lambda x: x.amax(dim=(2, 3), keepdim=True),
    "Flatten": lambda x: x.flatten(1),
    "Relu": functional.relu,
    "Add": torch.add,
    "Shape": lambda x: torch.tensor(x.shape),
    "Cast": lambda x, to: x.float(),
}


class Interpreter:
    """One graph: `interpreter(x)` gives its outputs in order, as a tuple."""

    def __init__(self, path):
        graph = onnx.load(path).graph
        unknown = {node.op_type for node in graph.node} - set(OPERATORS)
        if unknown:
            raise Unsupported(f"{path}: operators {sorted(unknown)}")
        self.nodes = [
            (OPERATORS[n.op_type], list(n.input), n.output[0], {a.name: helper.get_attribute_value(a) for a in n.attribute})
            for n in graph.node
        ]
        self.weights = {t.name: torch.from_numpy(np.array(numpy_helper.to_array(t))) for t in graph.initializer}
        self.input = graph.input[0].name
        self.outputs = [o.name for o in graph.output]

    def __call__(self, x):
        values = dict(self.weights, **{self.input: x, "": None})
        with torch.no_grad():
            for operator, inputs, output, attributes in self.nodes:
                values[output] = operator(*[values[name] for name in inputs], **attributes)
        return tuple(values[name] for name in self.outputs)
