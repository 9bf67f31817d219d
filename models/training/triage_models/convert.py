"""Turns checkpoints of the paper's own public code into our zoo format.

    python -m triage_models.convert --lungs lungs.pth --multitask multitask.pth --out models/zoo

Owns the mapping of a state dict to our nets. Never guesses: every tensor must fit, in order, and
none may be left over.

Its modules are matched by their order, kind and shape, not by name, since the names depend on the
version of its library. Registered are the stem, the U-Net's parts (bridge, down path and up path, in an
order that is found out), the lesion head and the identification head; a residual block holds its two
normalizations, two 3x3 convolutions and, where the widths differ, a 1x1 shortcut. `MultitaskSpatial`
registers all its parts twice, so its state dict repeats every tensor; that is checked.
"""

import argparse
import itertools
import os

import torch
from torch import nn

from . import export
from .nets import LungNet, MultitaskSpatial

PARTS = ("bridge", "down", "up")


class ConversionError(Exception):
    """A checkpoint that doesn't fit: names the first key that doesn't, with its shape."""

    def __init__(self, message, matched=0):
        super().__init__(message)
        self.matched = matched


class Source:
    """A module of the checkpoint: its key, kind and tensors."""

    def __init__(self, key, tensors):
        self.key, self.tensors = key, tensors
        weight = tensors.get("weight")
        if "running_mean" in tensors:
            self.kind = "norm"
        elif weight is not None and weight.ndim == 4:
            self.kind = f"conv {weight.shape[2]}x{weight.shape[3]}"
        elif weight is not None and weight.ndim == 2:
            self.kind = "linear"
        else:
            shapes = {name: tuple(t.shape) for name, t in tensors.items()}
            raise ConversionError(f"{key}: no convolution, normalization or linear layer: {shapes}")

    def __str__(self):
        return f"{self.key} ({self.kind}, weight {tuple(self.tensors['weight'].shape)})"


def sources(state):
    """The modules of a state dict in their order."""
    grouped = {}
    for key, tensor in state.items():
        module, _, name = key.rpartition(".")
        grouped.setdefault(module, {})[name] = tensor
    return [Source(key, tensors) for key, tensors in grouped.items()]


def kind_of(layer):
    if isinstance(layer, nn.BatchNorm2d):
        return "norm"
    if isinstance(layer, nn.Conv2d):
        return "conv {}x{}".format(*layer.kernel_size)
    return "linear"


def block_groups(run):
    """The layers of each residual block of a run; inside a group only order within a kind counts."""
    for block in run:
        layers = [block.norm1, block.conv1, block.norm2, block.conv2]
        yield layers + ([] if block.shortcut is None else [block.shortcut])


def backbone_groups(net, order):
    """Groups of layers of a U-Net, its parts registered in `order`."""
    yield [net.stem]
    for part in order:
        for run in [net.bridge] if part == "bridge" else getattr(net, part):
            yield from block_groups(run)


def lungs_groups(net, order):
    yield from backbone_groups(net.backbone, order)
    yield [net.head.norm, net.head.conv]


def multitask_groups(net, order):
    yield from backbone_groups(net.backbone, order)
    yield from block_groups([net.lesions[0]])
    yield [net.lesions[1].norm, net.lesions[1].conv]
    yield [net.identification.hidden]
    yield [net.identification.out]


def assign(layer, source):
    """Loads a module's tensors. A bias that our net lacks is kept, one that the source lacks is dropped."""
    weight = source.tensors["weight"]
    if tuple(weight.shape) != tuple(layer.weight.shape):
        raise ConversionError(f"{source}: our net has {tuple(layer.weight.shape)} there")
    if not all(torch.isfinite(t).all() for t in source.tensors.values()):
        raise ConversionError(f"{source}: a value is not finite")
    with torch.no_grad():
        layer.weight.copy_(weight)
        bias = source.tensors.get("bias")
        if bias is None and layer.bias is not None:
            layer.bias = None
        elif bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone().float())
        if kind_of(layer) == "norm":
            layer.running_mean.copy_(source.tensors["running_mean"])
            layer.running_var.copy_(source.tensors["running_var"])


def fill(groups, modules):
    """Loads the modules into the groups of layers; returns how many modules that took."""
    at = 0
    for group in groups:
        taken = modules[at : at + len(group)]
        for kind in dict.fromkeys(map(kind_of, group)):
            layers = [layer for layer in group if kind_of(layer) == kind]
            fitting = [source for source in taken if source.kind == kind]
            if len(fitting) != len(layers):
                wrong = next((s for s in taken if s.kind not in map(kind_of, group)), taken[0] if taken else None)
                found = f"found {wrong}" if wrong else "the checkpoint ends"
                raise ConversionError(f"expected {len(layers)} x {kind}, {found}", at)
            for layer, source in zip(layers, fitting):
                try:
                    assign(layer, source)
                except ConversionError as error:
                    raise ConversionError(str(error), at) from None
        at += len(group)
    return at


def check_rest(modules, used):
    """What remains must repeat what was used, tensor by tensor."""
    rest = modules[used:]
    if rest and len(rest) != used:
        raise ConversionError(f"{rest[0]}: nothing in our net is left for it", used)
    for first, again in zip(modules, rest):
        same = first.tensors.keys() == again.tensors.keys() and all(
            torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors
        )
        if not same:
            raise ConversionError(f"{again}: is not the repetition of {first} that it should be", used)


def load(make, groups, state):
    """Our net with the weights of a state dict of the paper's code."""
    modules, failures = sources(state), []
    for order in itertools.permutations(PARTS):
        net = make()
        try:
            check_rest(modules, fill(groups(net, order), modules))
            return net.eval()
        except ConversionError as error:
            failures.append(error)
    # The order that got furthest is the one that was meant.
    raise max(failures, key=lambda error: error.matched)


def lungs_from(state):
    """LungNet from a state dict of the paper's lung segmentation model."""
    return load(LungNet, lungs_groups, state)


def multitask_from(state):
    """MultitaskSpatial from a state dict of the paper's model of that name."""
    return load(MultitaskSpatial, multitask_groups, state)


def read_state(path):
    """The state dict in a checkpoint file, also one wrapped under a single key such as `state_dict`."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    while isinstance(state, dict) and not any(torch.is_tensor(value) for value in state.values()):
        inner = [value for value in state.values() if isinstance(value, dict)]
        if len(inner) != 1:
            raise ConversionError(f"{path}: no state dict")
        state = inner[0]
    if not isinstance(state, dict):
        raise ConversionError(f"{path}: no state dict but {type(state).__name__}")
    return {key: value for key, value in state.items() if torch.is_tensor(value)}


def describe(path, args):
    return {
        "version": args.version,
        "licence": args.licence,
        "data": {"training": args.trained_on, "source": f"converted from {os.path.basename(path)}, a checkpoint of the paper's public code"},
        "quality": {"note": "not measured at conversion"},
        "not_measured": {"all": "Whoever brings these weights must measure them, on their own data, before use."},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lungs", help="checkpoint of the lung segmentation model")
    parser.add_argument("--multitask", help="checkpoint of MultitaskSpatial")
    parser.add_argument("--out", required=True, help="zoo folder to write into")
    parser.add_argument("--version", default="converted-1")
    parser.add_argument("--licence", default="not stated: as the owner of the checkpoint says")
    parser.add_argument("--trained-on", default="not stated")
    args = parser.parse_args()
    if not args.lungs and not args.multitask:
        parser.error("give --lungs, --multitask or both")
    try:
        if args.lungs:
            net = lungs_from(read_state(args.lungs))
            export.write(os.path.join(args.out, "lungs"), "lungs", net, describe(args.lungs, args))
        if args.multitask:
            net = multitask_from(read_state(args.multitask))
            folder = os.path.join(args.out, "multitask-spatial-1")
            export.write(folder, "multitask-spatial-1", net, describe(args.multitask, args))
    except (ConversionError, export.ExportError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
