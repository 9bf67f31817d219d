"""The 3-D U-Net and ResNet50 of the paper's Table 2 at full size, with random weights, and what ONNX Runtime makes of them.

`python full.py NET OUT SIZE...` writes `model.onnx`, `input.f32` and `output.f32` to the folder OUT; NET is `volume`, `resnet50` or
`series-head`. For `../table2.rs`.
"""

import os
import sys
import time

import numpy as np
import onnxruntime
import torch
from torch import nn

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "training"))

from triage_models import baselines, export  # noqa: E402

NETS = {
    "volume": (baselines.VolumeNet, export.volume_graph),
    "resnet50": (baselines.ResNet50, export.resnet_graph),
    "series-head": (baselines.SeriesHead, export.head_graph),
}


def randomize(net, seed):
    """Weights that keep the size of what they multiply, and statistics that are not the defaults."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2.0)
            elif isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear)):
                bound = (3.0 / module.weight[0].numel()) ** 0.5
                module.weight.uniform_(-bound, bound)
                if module.bias is not None:
                    module.bias.uniform_(-0.3, 0.3)
    return net.eval()


def main():
    name, folder, dims = sys.argv[1], sys.argv[2], [int(n) for n in sys.argv[3:]]
    make, graph = NETS[name]
    blob = graph(randomize(make(), 1)).SerializeToString()
    with open(os.path.join(folder, "model.onnx"), "wb") as file:
        file.write(blob)
    x = np.random.default_rng(2).random(dims, np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
    start = time.process_time()
    y = session.run(None, {session.get_inputs()[0].name: x})[0]
    seconds = time.process_time() - start
    x.tofile(os.path.join(folder, "input.f32"))
    y.tofile(os.path.join(folder, "output.f32"))
    print(f"{name} {dims}: {len(blob) >> 20} MiB; onnxruntime {onnxruntime.__version__} took {seconds:.2f} s of processor time")


if __name__ == "__main__":
    main()
