"""Trains a method of Table 2: `python -m triage_models.train METHOD --data DIR --out DIR`.

Owns the command line. DIR is either a data set in the paper's layout, as `triage_models.prepare` writes it, and then the method is trained by
the paper's recipe (`paper`); or the demonstration's files (`data`), and then by that of the shipped weights (`demo_lungs`,
`demo_lesions`). A run that was interrupted goes on with `--resume`. A finished one leaves OUT/METHOD, a folder of the zoo's format; but the
demonstration of a multitask net trains no identification head (that is `train_identification`'s), and leaves weights alone. `--quick` trains a
small part for a minute on a processor, on made-up volumes unless `--data` is given, and fails if the loss does not fall.
"""

import argparse
import hashlib
import os
import sys

import numpy as np
import torch

from . import demo_lesions, demo_lungs, export, from_zoo, loop, paper

# Of a quick run the mean loss of the last quarter must be below this share of the first quarter's.
QUICK_FALL = 0.9


def is_demonstration(folder):
    return os.path.exists(os.path.join(folder, "lung_slices.npz"))


def demo_recipe(args):
    """The recipe of the shipped weights."""
    options = {"steps": args.steps, "batch_size": args.batch, "rate": args.rate}
    options = {key: value for key, value in options.items() if value is not None}
    if args.method == "lungs":
        return demo_lungs.recipe(args.data, args.phantoms, args.without_lungs, **options)
    if args.method in demo_lesions.METHODS:
        return demo_lesions.recipe(args.method, args.data, args.phantoms, **options)
    raise loop.TrainingError(
        f"{args.method} can't be trained on the demonstration's data: it has no volumes with a diagnosis. "
        "An identification head for a demonstration: triage_models.train_identification"
    )


def make_recipe(args):
    if args.quick:
        return paper.quick_recipe(args.method, args.data, os.path.join(args.out, "data"), args.steps, args.lungs)
    if not args.data:
        raise loop.TrainingError("--data is missing")
    if is_demonstration(args.data):
        return demo_recipe(args)
    return paper.recipe(args.method, args.data, steps=args.steps, batch_size=args.batch, rate=args.rate, split=args.seed, lungs=args.lungs)


def check_fall(losses):
    """The mean of the first and the last quarter; an error where the loss did not fall."""
    quarter = max(1, len(losses) // 4)
    first, last = float(np.mean(losses[:quarter])), float(np.mean(losses[-quarter:]))
    print(f"loss of the first quarter {first:.4f}, of the last {last:.4f}")
    if not last < QUICK_FALL * first:
        raise loop.TrainingError(f"the loss did not fall: {first:.4f} at first, {last:.4f} at last")


def quality_of(run, figures, file):
    """The card's quality and what it leaves unmeasured; figures are those of the weights that are written."""
    measured = {key: value for key, value in figures.items() if key != "step"}
    weights = f"weights: {file}, of step {figures.get('step', run.done)}"
    if measured:
        return {**measured, "how": f"on {run.recipe.validated_on}; {weights}"}, "Everything but the figures above."
    return {"how": f"not validated; {weights}"}, "Everything."


def differences(args, run):
    """What was trained otherwise than the recipe says, in words."""
    planned = {} if is_demonstration(args.data) else vars(paper.PLANS[args.method])
    found = []
    for key, given in (("steps", args.steps), ("batch", args.batch), ("rate", args.rate)):
        if given is not None and given != planned.get(key):
            found.append(f"{key} {given}" + (f" instead of {planned[key]}" if planned else ""))
    found += [f"{what} {os.path.basename(path)}" for what, path in (("first weights", args.init), ("lung net", args.lungs)) if path]
    # The paper's is mixed, with float16.
    if planned and str(run.precision) != "torch.float16":
        found.append(f"precision {str(run.precision).partition('.')[2]} instead of mixed float16")
    return found


def training_of(args, run):
    """The card's words on the training."""
    whose = "the demonstration's recipe" if is_demonstration(args.data) else "the paper's recipe"
    on = f"{os.path.basename(os.path.abspath(args.data))}, seed {args.seed}"
    found = differences(args, run)
    return f"Not {whose}, but with {', '.join(found)}; on {on}" if found else f"{whose} on {on}"


def digest(weights):
    """Of a state dictionary: a few digits that tell it from another of the same seed."""
    hasher = hashlib.sha256()
    for key in sorted(weights):
        hasher.update(key.encode() + weights[key].contiguous().numpy().tobytes())
    return hasher.hexdigest()[:8]


def write_folder(args, run):
    """OUT/METHOD as a zoo folder, of the best weights: what `triaged evaluate --weights OUT` takes."""
    weights, figures, file = run.result()
    net = paper.net_of(args.method)
    net.load_state_dict(weights)
    quality, not_measured = quality_of(run, figures, file)
    card = {
        "version": f"seed-{args.seed}-{digest(weights)}",
        "licence": "not stated: that of the training data binds",
        "data": {"training": training_of(args, run)},
        "quality": quality,
        "not_measured": {"all": not_measured},
    }
    export.write(os.path.join(args.out, args.method), args.method, net.eval(), card)


def finish(args, run):
    """A zoo folder, where every part of the net was trained: one with a random identification head would answer with chance."""
    if is_demonstration(args.data) and args.method in paper.MULTITASK:
        weights = os.path.join(args.out, "weights.pt")
        print(f"{weights} has no trained identification head: python -m triage_models.train_identification {args.method} --backbone {weights}")
    else:
        write_folder(args, run)


def start_from(net, path):
    """Weights of a run, or of the zoo; the 2-D U-Net takes those of a multitask net's backbone and lesion head too."""
    if path.endswith(".onnx"):
        from_zoo.load(net, path)
    else:
        net.load_state_dict(loop.read_weights(path)[0])


def settings_of(args):
    """What a run is of, beside its recipe's numbers: a run goes on only with the same."""
    files = {name: getattr(args, name) for name in ("data", "init", "lungs", "phantoms", "without_lungs")}
    return {"method": args.method, "quick": args.quick, **{name: path and os.path.realpath(path) for name, path in files.items()}}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=paper.METHODS, metavar="METHOD", help=", ".join(paper.METHODS))
    parser.add_argument("--data", help="prepared data set, or the demonstration's files")
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, if there is one")
    parser.add_argument("--quick", action="store_true", help="a minute on a processor; fails if the loss does not fall")
    parser.add_argument("--init", help="weights to start from, .pt or model.onnx, instead of random ones: not the paper's recipe")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; batches are made on the processor")
    parser.add_argument("--float32", action="store_true", help="no mixed precision on a GPU")
    parser.add_argument("--mixed", action="store_true", help="mixed precision on a processor too, in bfloat16")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and split; the paper's results are of several")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--batch", type=int, help="instead of the recipe's")
    parser.add_argument("--rate", type=float, help="learning rate at first, instead of the recipe's")
    parser.add_argument("--lungs", help="model.onnx of a lung net, for series without lung masks; default: that of models/zoo")
    parser.add_argument("--phantoms", help="demonstration: phantoms packed by triage_models.phantoms")
    parser.add_argument("--without-lungs", help="demonstration of lungs: FOLDER:FIRST-LAST,..., slices that show no lung")
    return parser


def main():
    args = arguments().parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    mixed = args.mixed or (args.device.startswith("cuda") and not args.float32)
    try:
        recipe = make_recipe(args)
        if args.init:
            start_from(recipe.net, args.init)
        recipe.settings = {**recipe.settings, **settings_of(args)}
        run = loop.Run(recipe, args.out, args.seed, args.device, mixed, args.resume)
        losses = run.go()
        if args.quick:
            check_fall(losses)
        else:
            finish(args, run)
    except loop.TrainingError as error:
        sys.exit(f"train: {error}")


if __name__ == "__main__":
    main()
