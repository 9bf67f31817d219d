"""One slice through the zoo's nets on one thread: our engine, onnxruntime, OpenVINO (if installed) and rten, interleaved.

    cargo bench -p engine --bench slice --no-run    # prints the path of the benchmark
    python slice.py PATH_OF_THE_BENCHMARK [ROUNDS [MODEL DEPTH ROWS COLUMNS]]

Without a model the zoo's two; DEPTH is 1 for slices. rten has no operators for volumes and is left out there.

Same ONNX, same input, one thread each, every engine in a process of its own; in each round every engine runs some slices, one engine after
the other. Prints the median over the rounds of the CPU time a slice (user and system, all threads), its ratio to onnxruntime's round by
round, the peak of resident memory and how much of that came with the model, and the largest difference of an output from onnxruntime's.
Needs numpy and onnxruntime from PyPI; `openvino` is optional.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ZOO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "zoo")
JOBS = (("lungs", 180, 180), ("multitask-spatial-1", 110, 150))


def resident_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def onnxruntime_runner(model, shape):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def openvino_runner(model, shape):
    import openvino

    core = openvino.Core()
    net = core.read_model(model)
    net.reshape(shape)
    # bf16 would be another computation.
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(net, "CPU", options)
    return lambda x: list(compiled([x]).values())


def shape_of(depth, rows, columns):
    return [1, 1] + ([depth] if depth > 1 else []) + [rows, columns]


def serve(engine, model, shape):
    """The worker: as `--serve` of slice.rs."""
    idle = resident_mib()
    run = {"onnxruntime": onnxruntime_runner, "openvino": openvino_runner}[engine](model, shape)
    for line in sys.stdin:
        count, file = line.split(" ", 1)
        file = file.strip()
        x = np.fromfile(file, np.float32).reshape(shape)
        start = time.process_time()
        for _ in range(int(count)):
            outputs = run(x)
        mean = (time.process_time() - start) / int(count) * 1e3
        np.concatenate([np.ravel(o) for o in outputs]).astype(np.float32).tofile(f"{file}.{engine}")
        print(mean, resident_mib(), idle, flush=True)


class Worker:
    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, count, file):
        self.process.stdin.write(f"{count} {file}\n")
        self.process.stdin.flush()
        return [float(v) for v in self.process.stdout.readline().split()]

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(bench, model, depth, rows, columns, rounds, folder):
    size = [model, str(depth), str(rows), str(columns)]
    here = [sys.executable, os.path.abspath(__file__), "--serve"]
    workers = [Worker("onnxruntime", here + ["onnxruntime"] + size)]
    try:
        import openvino  # noqa: F401

        workers.append(Worker("openvino", here + ["openvino"] + size))
    except ImportError:
        print("OpenVINO is not installed")
    own = ("rten", "ours") if depth == 1 else ("ours",)
    workers += [Worker(name, [bench, "--serve", name] + size) for name in own]
    file = os.path.join(folder, "slice")
    rng = np.random.default_rng(1)
    y, x = np.mgrid[: depth * rows, :columns]
    smooth = 0.5 + 0.4 * np.sin(y / 17) * np.cos(x / 23) + 0.1 * (rng.random(x.shape) - 0.5)
    slices = max(1, 600_000 // (depth * rows * columns))
    smooth.clip(0, 1).astype(np.float32).tofile(file)
    results = {worker.name: [] for worker in workers}
    for worker in workers:
        worker.run(3, file)  # warm-up: plans, caches
    for _ in range(rounds):
        for worker in workers:
            results[worker.name].append(worker.run(slices, file))
    for worker in workers:
        worker.end()
    print(f"{model}, {depth} x {rows} x {columns}, {rounds} rounds of {slices} runs")
    print(f"{'':14}{'CPU ms a slice':>16}{'to onnxruntime':>16}{'peak MiB':>10}{'of it model':>12}{'difference':>12}")
    reference = results["onnxruntime"]
    expected = np.fromfile(f"{file}.onnxruntime", np.float32)
    for name, rows_of in results.items():
        ms = statistics.median(r[0] for r in rows_of)
        ratio = statistics.median(a[0] / b[0] for a, b in zip(rows_of, reference))
        peak, idle = rows_of[-1][1], rows_of[-1][2]
        worst = np.abs(np.fromfile(f"{file}.{name}", np.float32) - expected).max()
        print(f"{name:14}{ms:16.2f}{ratio:16.3f}{peak:10.0f}{peak - idle:12.0f}{worst:12.1e}")


def main():
    if sys.argv[1] == "--serve":
        engine, model, *dims = sys.argv[2:]
        return serve(engine, model, shape_of(*map(int, dims)))
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 21
    jobs = [(os.path.join(ZOO, net, "model.onnx"), 1, rows, columns) for net, rows, columns in JOBS]
    if len(sys.argv) > 3:
        jobs = [(sys.argv[3], *map(int, sys.argv[4:7]))]
    with tempfile.TemporaryDirectory() as folder:
        for model, depth, rows, columns in jobs:
            measure(sys.argv[1], model, depth, rows, columns, rounds, folder)


if __name__ == "__main__":
    main()
