"""Reads the weights of a zoo's graph back into the net that wrote it.

Owns the way back from `export`: tensors are matched by the order in which that module writes them. A normalization that was folded into
its convolution comes back as one that adds the convolution's bias. So the net computes what the graph does, and written again
it gives the same 16-bit weights.
"""

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from .nets import ResidualBlock


class ZooError(Exception):
    """A graph that is not of this net."""


class Tensors:
    """The initializers in their order."""

    def __init__(self, path):
        self.path, self.list = path, [numpy_helper.to_array(t).astype(np.float32) for t in onnx.load(path).graph.initializer]

    def into(self, target):
        if not self.list or self.list[0].shape != tuple(target.shape):
            found = self.list[0].shape if self.list else "nothing"
            raise ZooError(f"{self.path}: {found} where the net has {tuple(target.shape)}")
        with torch.no_grad():
            target.copy_(torch.from_numpy(self.list.pop(0)))

    def norm(self, norm):
        """Scale, shift, mean 0 and variance 1."""
        plain(norm)
        for target in (norm.weight, norm.bias, norm.running_mean, torch.empty_like(norm.running_var)):
            self.into(target)

    def block(self, block):
        self.norm(block.norm1)
        self.into(block.conv1.weight)
        plain(block.norm2)
        self.into(block.norm2.bias)
        self.into(block.conv2.weight)
        if block.shortcut is not None:
            self.into(block.shortcut.weight)

    def unet(self, net):
        self.into(net.stem.weight)
        self.into(net.stem.bias)
        for level in (*net.down, net.bridge, *reversed(net.up)):
            for block in level:
                self.block(block)

    def logits(self, head):
        self.norm(head.norm)
        self.into(head.conv.weight)

    def end(self):
        if self.list:
            raise ZooError(f"{self.path}: {len(self.list)} tensors are left over")


def plain(norm):
    """A normalization that changes nothing."""
    norm.reset_parameters()
    # So that variance + epsilon is 1.
    norm.running_var.fill_(1 - norm.eps)


def load(net, path):
    """Fills backbone and lesion (or lung) head of a net from `model.onnx`."""
    tensors = Tensors(path)
    tensors.unet(net.backbone)
    if hasattr(net, "lesions"):
        assert isinstance(net.lesions[0], ResidualBlock)
        tensors.block(net.lesions[0])
        tensors.logits(net.lesions[1])
    else:
        tensors.logits(net.head)
    tensors.end()
    return net.eval()


def load_head(head, path):
    """Fills an identification head from `head.onnx`."""
    tensors = Tensors(path)
    for layer in (head.hidden, head.out):
        tensors.into(layer.weight)
        if layer.bias is not None:
            tensors.into(layer.bias)
    tensors.end()
    return head.eval()
