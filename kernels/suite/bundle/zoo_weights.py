"""The zoo's ONNX files as weights of the networks in `nets.py`. Needs NumPy and PyTorch, no ONNX.

Owns: reading the few fields of an ONNX file that hold weights, in the order of the nodes, and where each goes. The files hold a batch
normalization behind a convolution folded into it; here it becomes one again (scale 1), so that the network computes what the paper's does.
"""

import numpy as np
import torch

import nets

TYPES = {1: np.float32, 10: np.float16, 7: np.int64}


def fields(data):
    """(number, value) of each field of a protobuf message; lengths and varints only, and 32-bit words."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
        elif kind == 2:
            size = varint()
            yield key >> 3, data[at : at + size]
            at += size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            yield key >> 3, data[at : at + size]
            at += size
        else:
            raise ValueError(f"protobuf wire type {kind}")


def tensor(data):
    """(name, array) of a TensorProto with raw data."""
    dims, kind, name, raw = [], None, None, None
    for number, value in fields(data):
        if number == 1:
            dims += [value] if isinstance(value, int) else list(value)
        elif number == 2:
            kind = value
        elif number == 8:
            name = bytes(value).decode()
        elif number == 9:
            raw = value
    if kind not in TYPES or raw is None:
        raise ValueError(f"initializer {name}: type {kind}, raw data {raw is not None}")
    return name, np.frombuffer(raw, TYPES[kind]).reshape(dims)


def weighted_nodes(path):
    """(operator, [weights]) of the nodes that have any, in order; what a Cast widens counts as its result."""
    with open(path, "rb") as file:
        model = memoryview(file.read())
    graph = next(value for number, value in fields(model) if number == 7)
    weights, nodes = {}, []
    for number, value in fields(graph):
        if number == 5:
            name, array = tensor(value)
            weights[name] = array
        elif number == 1:
            inputs, outputs, op = [], [], None
            for inner, content in fields(value):
                if inner == 1:
                    inputs.append(bytes(content).decode())
                elif inner == 2:
                    outputs.append(bytes(content).decode())
                elif inner == 4:
                    op = bytes(content).decode()
            nodes.append((op, inputs, outputs))
    found = []
    for op, inputs, outputs in nodes:
        if op == "Cast" and inputs[0] in weights:
            weights[outputs[0]] = weights[inputs[0]].astype(np.float32)
        elif op in ("Conv", "BatchNormalization", "Gemm"):
            found.append((op, [torch.from_numpy(np.array(weights[name], np.float32)) for name in inputs[1:]]))
    return found


class Filler:
    """Gives each layer the next node's weights; a node of another kind is an error."""

    def __init__(self, path):
        self.nodes = iter(weighted_nodes(path))
        self.path = path

    def next(self, wanted):
        op, weights = next(self.nodes)
        if op != wanted:
            raise ValueError(f"{self.path}: {op} where {wanted} is expected")
        return weights

    def conv(self, layer, norm=None):
        weights = self.next("Conv")
        layer.weight.data.copy_(weights[0])
        if norm is not None:
            self.fill_norm(norm, torch.ones_like(weights[1]), weights[1])
        elif layer.bias is not None:
            layer.bias.data.copy_(weights[1])

    def norm(self, layer):
        scale, shift = self.next("BatchNormalization")[:2]
        self.fill_norm(layer, scale, shift)

    @staticmethod
    def fill_norm(layer, scale, shift):
        layer.weight.data.copy_(scale)
        layer.bias.data.copy_(shift)
        layer.running_mean.zero_()
        layer.running_var.fill_(1.0 - layer.eps)

    def linear(self, layer):
        weights = self.next("Gemm")
        layer.weight.data.copy_(weights[0])
        if layer.bias is not None:
            layer.bias.data.copy_(weights[1])

    def block(self, block):
        self.norm(block.norm1)
        self.conv(block.conv1, block.norm2)
        self.conv(block.conv2)
        if block.shortcut is not None:
            self.conv(block.shortcut)

    def run(self, blocks):
        for block in blocks:
            self.block(block)

    def unet(self, net):
        self.conv(net.stem)
        for level in net.down:
            self.run(level)
        self.run(net.bridge)
        for level in reversed(net.up):
            self.run(level)

    def logits(self, head):
        self.norm(head.norm)
        self.conv(head.conv)

    def end(self):
        if next(self.nodes, None) is not None:
            raise ValueError(f"{self.path}: more weights than layers")


def load(zoo):
    """(LungNet, MultitaskSpatial) with the zoo's weights, in evaluation."""
    lungs, multitask = nets.LungNet(), nets.MultitaskSpatial()
    filler = Filler(f"{zoo}/lungs/model.onnx")
    filler.unet(lungs.backbone)
    filler.logits(lungs.head)
    filler.end()
    filler = Filler(f"{zoo}/multitask-spatial-1/model.onnx")
    filler.unet(multitask.backbone)
    filler.block(multitask.lesions[0])
    filler.logits(multitask.lesions[1])
    filler.end()
    filler = Filler(f"{zoo}/multitask-spatial-1/head.onnx")
    filler.linear(multitask.identification.hidden)
    filler.linear(multitask.identification.out)
    filler.end()
    return lungs.eval(), multitask.eval()
