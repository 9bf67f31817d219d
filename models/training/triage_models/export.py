"""Writes the nets into the zoo's format: ONNX with 16-bit weights, and the model card.

Owns the graphs and `card.toml`. Never trains and never measures: figures are passed in. The graphs
are built node by node, not traced: so they're the same whatever version of PyTorch runs this.

Weights of convolutions and linear layers are float16 initializers, each widened by a Cast; biases
and normalizations stay float32 (they're few). A batch normalization behind a convolution is folded
into it, every other becomes a BatchNormalization node with mean 0 and variance 1.
"""

import hashlib
import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .nets import LEVEL_CHANNELS, MultitaskLatent

OPSET = 17
IR_VERSION = 8


class ExportError(Exception):
    """A net that the zoo's format can't hold."""


class Graph:
    """Collects nodes and initializers; every method returns the name of its result."""

    def __init__(self):
        self.nodes, self.weights, self.count = [], [], 0

    def node(self, op, inputs, output=None, **attributes):
        if output is None:
            self.count += 1
            output = f"{op.lower()}_{self.count}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def full(self, values):
        """A float32 initializer."""
        self.count += 1
        name = f"vector_{self.count}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return name

    def half(self, values):
        """A float16 initializer, widened to float32."""
        self.count += 1
        name = f"weight_{self.count}"
        with np.errstate(over="ignore"):
            rounded = np.ascontiguousarray(values).astype(np.float16)
        if not np.isfinite(rounded).all():
            raise ExportError(f"a weight of {np.abs(values).max():g} exceeds float16's 65504")
        self.weights.append(numpy_helper.from_array(rounded, name))
        return self.node("Cast", [name], to=TensorProto.FLOAT)

    def conv(self, x, layer, norm=None, output=None):
        """A convolution, with the batch normalization that follows it folded in."""
        weight = array(layer.weight)
        bias = None if layer.bias is None else array(layer.bias)
        if norm is not None:
            scale, shift = scale_and_shift(norm)
            weight = weight * scale.reshape([-1] + [1] * (weight.ndim - 1))
            bias = shift if bias is None else bias * scale + shift
        size, axes = weight.shape[2], weight.ndim - 2
        inputs = [x, self.half(weight)] + ([] if bias is None else [self.full(bias)])
        # Not written where it is 1, so that files of the zoo stay what they are.
        strides = {} if layer.stride[0] == 1 else {"strides": list(layer.stride)}
        return self.node("Conv", inputs, output, kernel_shape=[size] * axes, pads=[size // 2] * (2 * axes), **strides)

    def norm(self, x, layer):
        scale, shift = scale_and_shift(layer)
        zeros, ones = np.zeros_like(scale), np.ones_like(scale)
        return self.node("BatchNormalization", [x] + [self.full(v) for v in (scale, shift, zeros, ones)], epsilon=0.0)

    def relu(self, x):
        return self.node("Relu", [x])

    def block(self, x, block, output=None):
        """A residual block."""
        y = self.relu(self.conv(self.relu(self.norm(x, block.norm1)), block.conv1, block.norm2))
        y = self.conv(y, block.conv2)
        skip = x if block.shortcut is None else self.conv(x, block.shortcut)
        return self.node("Add", [y, skip], output)

    def run(self, x, run, output=None):
        for i, block in enumerate(run):
            x = self.block(x, block, output if i == len(run) - 1 else None)
        return x

    def unet(self, x, net, outputs=()):
        """The maps of all levels of the way up, the finest first, then the bridge's; `outputs` are names for some: {level: name}."""
        outputs = dict(outputs)
        x = self.conv(x, net.stem)
        skips = []
        for level in net.down:
            x = self.run(x, level)
            skips.append(x)
            x = self.node("MaxPool", [x], kernel_shape=[2] * net.axes, strides=[2] * net.axes, ceil_mode=1)
        maps = [self.run(x, net.bridge, outputs.get(len(skips) + 1))]
        for i in reversed(range(len(skips))):
            # The skip has the same batch and channels, so its shape is the size to resize to.
            size = self.node("Shape", [skips[i]])
            x = self.node("Resize", [maps[0], "", "", size], mode="linear", coordinate_transformation_mode="half_pixel")
            maps.insert(0, self.run(self.node("Add", [x, skips[i]]), net.up[i], outputs.get(i + 1)))
        return maps

    def bottleneck(self, x, block):
        """A block of ResNet50."""
        y = self.relu(self.conv(x, block.conv1, block.norm1))
        y = self.relu(self.conv(y, block.conv2, block.norm2))
        y = self.conv(y, block.conv3, block.norm3)
        skip = x if block.shortcut is None else self.conv(x, block.shortcut, block.norm)
        return self.relu(self.node("Add", [y, skip]))

    def logits(self, x, head, output):
        return self.conv(self.relu(self.norm(x, head.norm)), head.conv, output=output)

    def linear(self, x, layer, output=None):
        inputs = [x, self.half(array(layer.weight))]
        inputs += [] if layer.bias is None else [self.full(array(layer.bias))]
        return self.node("Gemm", inputs, output, transB=1)

    def model(self, name, inputs, outputs):
        """The checked ONNX model; inputs and outputs as {name: shape with names for what varies}."""
        infos = [
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in side.items()]
            for side in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, name, infos[0], infos[1], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="triage_models")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model


def array(tensor):
    return tensor.detach().cpu().double().numpy()


def scale_and_shift(norm):
    """A batch normalization in evaluation as y = x * scale + shift."""
    scale = array(norm.weight) / np.sqrt(array(norm.running_var) + norm.eps)
    return scale, array(norm.bias) - array(norm.running_mean) * scale


def slices_graph(net, name):
    """slice [N, 1, H, W] -> `name` [N, 1, H, W], logits: the lung net or the 2-D U-Net."""
    graph = Graph()
    graph.logits(graph.unet("slice", net.backbone)[0], net.head, name)
    shape = ["N", 1, "H", "W"]
    return graph.model(name, {"slice": shape}, {name: shape})


def multitask_graph(net):
    """slice [N, 1, H, W] -> features [N, C, h, w] (latent: [N, C]) and lesions [N, 1, H, W], logits."""
    graph, latent = Graph(), isinstance(net, MultitaskLatent)
    maps = graph.unet("slice", net.backbone, {} if latent else {net.level: "features"})
    if latent:
        graph.node("Flatten", [graph.node("GlobalMaxPool", [maps[-1]])], "features")
    graph.logits(graph.block(maps[0], net.lesions[0]), net.lesions[1], "lesions")
    shape, channels = ["N", 1, "H", "W"], LEVEL_CHANNELS[net.level - 1]
    size = {True: [], False: ["H", "W"] if net.level == 1 else ["h", "w"]}[latent]
    name = "multitask_latent" if latent else f"multitask_spatial_{net.level}"
    return graph.model(name, {"slice": shape}, {"features": ["N", channels] + size, "lesions": shape})


def head_graph(head):
    """pyramid [N, pooled features] -> covid [N, 1], logit."""
    graph = Graph()
    graph.linear(graph.relu(graph.linear("pyramid", head.hidden)), head.out, "covid")
    return graph.model("identification", {"pyramid": ["N", head.hidden.in_features]}, {"covid": ["N", 1]})


def volume_graph(net):
    """volume [N, 1, D, H, W] -> lesions [N, 1, D, H, W], logits."""
    graph = Graph()
    graph.logits(graph.unet("volume", net.backbone)[0], net.head, "lesions")
    shape = ["N", 1, "D", "H", "W"]
    return graph.model("volume", {"volume": shape}, {"lesions": shape})


def resnet_graph(net):
    """slice [N, 1, H, W] -> features [N, 1000]."""
    graph = Graph()
    x = graph.relu(graph.conv("slice", net.stem, net.norm))
    x = graph.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for block in net.blocks:
        x = graph.bottleneck(x, block)
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x])])
    graph.linear(x, net.features, "features")
    return graph.model("resnet50", {"slice": ["N", 1, "H", "W"]}, {"features": ["N", 1000]})


def toml_value(value):
    """A TOML literal of a string, number, list or flat table."""
    if isinstance(value, str):
        if "\n" in value:
            return '"""\n' + value.replace("\\", "\\\\").replace('"""', '\\"""').strip("\n") + '\n"""'
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    return repr(value).lower() if isinstance(value, bool) else repr(value)


SECTIONS = ("input", "thresholds", "patch", "data", "quality", "not_measured")


def card_text(card):
    """`card.toml` of a card given as a dictionary with the sections as dictionaries."""
    lines = [f"{key} = {toml_value(value)}" for key, value in card.items() if key not in SECTIONS]
    for section in (s for s in SECTIONS if s in card):
        lines += ["", f"[{section}]"] + [f"{k} = {toml_value(v)}" for k, v in card[section].items()]
    return "\n".join(lines) + "\n"


INPUT = {
    "spacing_mm": 2.0,
    "window_hu": [-1000.0, 300.0],
    "kvp": [80.0, 140.0],
    "slice_spacing_mm": [0.5, 10.0],
    "pixel_spacing_mm": [0.3, 1.5],
    "min_slices": 8,
    # Soft to medium kernels of Siemens, GE, Canon and Philips.
    "preferred_kernels": [
        "B30f", "B31f", "B40f", "B41f", "D30s", "D40s", "I30f", "I31f", "I40f", "I41f", "Br36d", "Br38d", "Br40d", "Br40f",
        "STANDARD", "SOFT", "FC03", "FC08", "FC13", "FC18", "B", "C",
    ],
    "preferred_slice_thickness_mm": [1.0, 3.0],
}
# Name: (task, method).
METHODS = {
    "lungs": ("lungs", "lung net, Goncharov et al. 2020"),
    "unet2d": ("lesions", "2-D U-Net, Goncharov et al. 2020"),
    "unet2d-plus": ("lesions", "2-D U-Net+, Goncharov et al. 2020"),
    "unet3d": ("lesions3d", "3-D U-Net, Goncharov et al. 2020"),
    "resnet50": ("series", "ResNet50, as in Goncharov et al. 2020"),
    "multitask-latent": ("multitask", "Multitask-Latent, Goncharov et al. 2020"),
}
METHODS.update({f"multitask-spatial-{n}": ("multitask", f"Multitask-Spatial-{n}, Goncharov et al. 2020") for n in range(1, 8)})
PATCH = {"size": [160, 160, 160]}


def thresholds(task):
    """Where probabilities become decisions: the paper's for voxels, 0.5 for a study."""
    voxels = {"lungs": {"probability": 0.5}, "series": {}}.get(task, {"probability": 0.2})
    return dict(voxels, **({"operating_point": 0.5} if task in ("multitask", "series") else {}))


def write_zoo(folder, name, graphs, description):
    """Writes the graphs ({"model": ..., "head": ...}) of the method `name` and their card into `folder`.

    `description` holds version, licence and the sections data, quality and not_measured. No graphs: the card of a method
    that has a recipe but no weights.
    """
    os.makedirs(folder, exist_ok=True)
    files = {key: f"{key}.onnx" for key in graphs}
    digests = {}
    for key, graph in graphs.items():
        blob = graph.SerializeToString()
        digests[key] = hashlib.sha256(blob).hexdigest()
        with open(os.path.join(folder, files[key]), "wb") as file:
            file.write(blob)
    task, method = METHODS[name]
    card = {"name": name, "version": description["version"], "task": task, "method": method, "licence": description["licence"]}
    card.update({"files": files, "sha256": digests} if graphs else {"trained": False})
    card.update({"input": INPUT, "thresholds": thresholds(task)})
    if task == "lesions3d":
        card["patch"] = PATCH
    card.update({section: description[section] for section in ("data", "quality", "not_measured")})
    with open(os.path.join(folder, "card.toml"), "w", encoding="utf-8") as file:
        file.write(card_text(card))


def graphs_of(name, net):
    """The graphs of a trained net."""
    task = METHODS[name][0]
    if task == "lesions3d":
        return {"model": volume_graph(net)}
    if task == "series":
        return {"model": resnet_graph(net.backbone), "head": head_graph(net.identification)}
    if task == "multitask":
        return {"model": multitask_graph(net), "head": head_graph(net.identification)}
    return {"model": slices_graph(net, task)}


def write(folder, name, net, description):
    """A trained net as a zoo folder."""
    write_zoo(folder, name, graphs_of(name, net), description)
