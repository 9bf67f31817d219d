"""The paper's pipeline in PyTorch, on the same device, data and weights as the suite, timed by stage.

    python3 pytorch_pipeline.py --zoo zoo --data data --pixels DIR --out OUT [--slices 300,40,150,600] [--device cpu]

DIR/N.cells are the pixels of N slices, from `gpu-suite pixels`. Writes OUT/parts/pytorch.json in the form of the suite's other parts, after
each line. NumPy and PyTorch only.

It is PyTorch at its best, not the authors' script: everything after decoding runs on the device, in batches, the resampling and the split of
the lungs too (theirs use SciPy and scikit-learn on the processor). In fp32 as the paper, and in fp16. The steps are those of the reference
pipeline (`triage_models.reference`), features stacked to one volume and pooled by four max_pool3d calls.
"""

import argparse
import json
import os
import sys
import time

import numpy as np
import torch
from torch.nn import functional

import nets
import zoo_weights

SPACING_MM, WINDOW = 2.0, (-1000.0, 300.0)
LUNG_THRESHOLD, LESION_THRESHOLD = 0.5, 0.2
FIT_EVERY, FIT_ALL_MAX, ROUNDS_MAX = 30, 60, 300
BATCH = 32
STAGES = ("ingest", "lungs", "box", "multitask", "pyramid", "head", "paste", "split")


class Part:
    """parts/pytorch.json, rewritten after each addition."""

    def __init__(self, out, quick):
        self.path = os.path.join(out, "parts", "pytorch.json")
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        self.start = time.time()
        self.found = {"part": "pytorch", "finished": False, "quick": quick, "seconds": 0.0, "checks": [], "tables": [], "figures": {}}
        self.save()

    def save(self):
        self.found["seconds"] = time.time() - self.start
        with open(self.path + ".partial", "w") as file:
            json.dump(self.found, file, indent=1)
        os.replace(self.path + ".partial", self.path)

    def table(self, title, note, columns):
        self.found["tables"].append({"title": title, "note": note, "columns": columns, "rows": []})
        self.save()

    def row(self, cells):
        print("  " + " | ".join(cells), flush=True)
        self.found["tables"][-1]["rows"].append(cells)
        self.save()

    def check(self, name, passed, detail):
        print(("ok     " if passed else "WRONG  ") + name + ": " + detail, flush=True)
        self.found["checks"].append({"name": name, "passed": bool(passed), "detail": detail})
        self.save()

    def figure(self, name, value):
        self.found["figures"][name] = float(value)
        self.save()


class Clock:
    """Milliseconds of each stage, the device's work included."""

    def __init__(self, device):
        self.device, self.ms = device, {}
        self.wait()
        self.begin = self.last = time.perf_counter()

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def stage(self, name):
        self.wait()
        now = time.perf_counter()
        self.ms[name] = self.ms.get(name, 0.0) + 1e3 * (now - self.last)
        self.last = now

    def whole(self):
        return 1e3 * (self.last - self.begin)


def zoom(planes, size):
    """[N, H, W] -> [N, *size], corners aligned."""
    return functional.interpolate(planes[:, None], size=tuple(size), mode="bilinear", align_corners=True)[:, 0]


def max_pools(volume):
    """[C, H, W, D] -> [C * 585]: the paper's four calls."""
    pooled = []
    for level in range(nets.PYRAMID_LEVELS):
        count = 2**level
        stride = [n // count for n in volume.shape[1:]]
        window = [n - (count - 1) * s for n, s in zip(volume.shape[1:], stride)]
        pooled.append(functional.max_pool3d(volume[None], window, stride).flatten())
    return torch.cat(pooled)


def split(mask):
    """Lung mask [slices, rows, columns] -> [voxels] True for the left lung, and the voxels' indices."""
    inside = mask.permute(1, 2, 0).nonzero()
    points = inside[:, [2, 0, 1]].float()
    fitted = points if len(points) <= FIT_ALL_MAX else points[::FIT_EVERY]
    centres = fitted.mean(0).repeat(2, 1)
    centres[0, 2], centres[1, 2] = fitted[:, 2].min(), fitted[:, 2].max()

    def is_left(p):
        distances = [((p - centre) ** 2).sum(1) for centre in centres]
        return distances[1] < distances[0]

    before = None
    for _ in range(ROUNDS_MAX):
        sides = is_left(fitted)
        if before is not None and torch.equal(sides, before):
            break
        before = sides
        for side, chosen in ((0, ~sides), (1, sides)):
            if chosen.any():
                centres[side] = fitted[chosen].mean(0)
    centres = centres[centres[:, 2].argsort()]
    return is_left(points), inside


@torch.no_grad()
def pipeline(cells, spacing_mm, lungs_net, multitask_net, device, dtype):
    """(probability, larger severity in percent, Clock) of [slices, rows, columns] cells."""
    clock = Clock(device)
    batches = range(0, len(cells), BATCH)
    rows, columns = cells.shape[1:]
    grid = [max(1, int(round(n * (s / SPACING_MM)))) for n, s in zip((rows, columns), spacing_mm)]
    planes = []
    for first in batches:
        hu = torch.from_numpy(cells[first : first + BATCH]).to(device).float() - 1024.0
        planes.append((zoom(hu, grid).clamp(*WINDOW) - WINDOW[0]) / (WINDOW[1] - WINDOW[0]))
    planes = torch.cat(planes)
    clock.stage("ingest")
    run = lambda net, x: net(x[:, None].to(dtype))
    lungs = torch.cat([torch.sigmoid(run(lungs_net, planes[first : first + BATCH])[:, 0].float()) for first in batches])
    clock.stage("lungs")
    mask = lungs >= LUNG_THRESHOLD
    box = []
    for axes in ((1, 2), (0, 2), (0, 1)):
        indices = mask.any(axes[1]).any(axes[0]).nonzero().flatten()
        box.append((int(indices[0]), int(indices[-1]) + 1))
    window = tuple(slice(*axis) for axis in box)
    crop = planes[window].contiguous()
    clock.stage("box")
    features, lesions = [], []
    for first in range(0, len(crop), BATCH):
        maps, logits = run(multitask_net, crop[first : first + BATCH])
        features.append(maps)
        lesions.append(torch.sigmoid(logits[:, 0].float()))
    volume = torch.cat(features).permute(1, 2, 3, 0).contiguous()
    lesions = torch.cat(lesions)
    clock.stage("multitask")
    pyramid = max_pools(volume)
    clock.stage("pyramid")
    probability = float(torch.sigmoid(multitask_net.identification(pyramid[None].to(dtype)).float()))
    clock.stage("head")
    target = []
    for (start, stop), m, n in zip(box[1:], grid, (rows, columns)):
        scale = n / m
        target.append((int(np.ceil(start * scale)), int(np.floor(stop * scale))))
    size = [stop - start for start, stop in target]
    masks = []
    for values, threshold in ((lungs[window], LUNG_THRESHOLD), (lesions, LESION_THRESHOLD)):
        masks.append(torch.cat([zoom(values[first : first + BATCH], size) >= threshold for first in range(0, len(values), BATCH)]))
    clock.stage("paste")
    # Inside the box: a shift of all positions changes no distance.
    left, inside = split(masks[0])
    diseased = masks[1].permute(1, 2, 0)[inside[:, 0], inside[:, 1], inside[:, 2]]
    severity = max(float(diseased[side].float().mean()) if bool(side.any()) else 0.0 for side in (left, ~left))
    clock.stage("split")
    return probability, 100.0 * severity, clock


def time_study(part, slices, dtype, name, nets_of, args, ours, device):
    header = json.load(open(os.path.join(args.data, "phantom.json")))
    cells = np.fromfile(os.path.join(args.pixels, f"{slices}.cells"), "<i2").reshape(slices, args.side, args.side)
    spacing_mm = [header[f"{axis}_mm"] * header[f"{axis}s"] / args.side for axis in ("row", "column")]
    rounds = []
    for _ in range(1 if args.quick else 4):
        rounds.append(pipeline(cells, spacing_mm, *nets_of(dtype), device, dtype))
    # The first round warms up: cuDNN looks for its fastest kernels then.
    timed = rounds[1:] or rounds
    whole = float(np.median([clock.whole() for _, _, clock in timed]))
    probability, severity, _ = timed[-1]
    stages = [f"{np.median([clock.ms[stage] for _, _, clock in timed]):.1f}" for stage in STAGES]
    mine = [ours[key] for key in (f"study_{slices}_cuda_s", f"study_{slices}_tensorrt_s") if key in ours]
    best = min(mine) if mine else None
    ratio = f"{whole / 1e3 / best:.1f} ×" if best else "–"
    row = [name, str(slices)] + stages + [f"{whole:.1f}", f"{1e3 * best:.1f}" if best else "–", ratio]
    part.row(row + [f"{probability:.4f}", f"{severity:.2f}"])
    part.figure(f"pytorch_study_{slices}_{name}_s", whole / 1e3)
    for engine in ("cuda", "tensorrt", "cpu"):
        key = f"study_{slices}_{engine}"
        if key + "_probability" in ours:
            p, s = abs(probability - ours[key + "_probability"]), abs(severity - ours[key + "_severity_percent"])
            detail = f"probability apart by {p:.1e}, severity by {s:.1e} points"
            part.check(f"{engine} and PyTorch {name}, {slices} slices", p <= 0.01 and s <= 0.5, detail)


def time_pyramid(part, dtype, name, args, ours, device):
    shape = (8, 20, 30, 16) if args.quick else (8, 110, 150, 300)
    volume = torch.randn(shape, device=device).to(dtype)
    repeats = 2 if args.quick or device.type == "cpu" else 20
    with torch.no_grad():
        for _ in range(1 if args.quick else 3):
            max_pools(volume)
        times = []
        for _ in range(3):
            clock = Clock(device)
            for _ in range(repeats):
                max_pools(volume)
            clock.stage("pyramid")
            times.append(1e3 * clock.whole() / repeats)
    theirs = float(np.median(times))
    mine = ours.get("pyramid_f16_whole_us") if name == "fp16" else None
    ratio = f"{theirs / mine:.1f} ×" if mine else "–"
    part.row([name, " × ".join(map(str, shape)), f"{theirs:.1f}", f"{mine:.1f}" if mine else "–", ratio])
    part.figure(f"pytorch_pyramid_{name}_us", theirs)


def figures(out):
    """What the other parts measured in this run."""
    found = {}
    for name in ("studies", "bandwidth"):
        path = os.path.join(out, "parts", name + ".json")
        if os.path.exists(path):
            with open(path) as file:
                found.update(json.load(file)["figures"])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--pixels", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--slices", default="300,40,150,600", help="the most important first")
    parser.add_argument("--side", type=int, default=512, help="rows and columns of a slice")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=100.0, help="begin nothing after so long")
    parser.add_argument("--quick", action="store_true", help="one round, small pyramid")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: PyTorch sees no GPU", file=sys.stderr)
        return 77
    device = torch.device(args.device)
    torch.backends.cudnn.benchmark = True
    part, ours = Part(args.out, args.quick), figures(args.out)
    try:
        loaded = zoo_weights.load(args.zoo)
        cached = {}

        def nets_of(dtype):
            if dtype not in cached:
                cached.clear()
                cached[dtype] = [net.to(device, dtype) for net in loaded]
            return cached[dtype]

        kinds = [(torch.float32, "fp32"), (torch.float16, "fp16")]
        about = f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"
        part.table(
            "Four max_pool3d calls of PyTorch, and our pyramid",
            f"{about}; µs. Ours is the whole pyramid: batches, all levels, the result on the host.",
            ["type", "shape", "PyTorch", "ours", "ratio"],
        )
        for dtype, name in kinds:
            try:
                time_pyramid(part, dtype, name, args, ours, device)
            except RuntimeError as error:
                part.row([name, f"not possible here: {str(error).splitlines()[0]}", "–", "–", "–"])
        part.table(
            "The paper's pipeline in PyTorch, and ours",
            f"{about}; batches of {BATCH} slices of {args.side}²; ms of wall time, medians; all on the device, more than the paper's own code does there.",
            ["type", "slices", *STAGES, "whole", "ours, fastest engine", "ratio", "probability", "severity %"],
        )
        for dtype, name in kinds:
            for slices in map(int, args.slices.split(",")):
                if time.time() - part.start > args.seconds:
                    part.row([name, str(slices), "out of time"] + ["–"] * (len(STAGES) + 4))
                    continue
                try:
                    time_study(part, slices, dtype, name, nets_of, args, ours, device)
                except RuntimeError as error:
                    what = f"not possible here: {str(error).splitlines()[0]}"
                    part.row([name, str(slices), what] + ["–"] * (len(STAGES) + 4))
        part.found["finished"] = True
    except Exception as error:  # The report tells it.
        part.found["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        part.save()
    return 0 if all(check["passed"] for check in part.found["checks"]) else 1


if __name__ == "__main__":
    sys.exit(main())
