import os
import sys

import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
# The nets here are tiny: more threads only wait for each other, for long where other work runs.
torch.set_num_threads(1)
