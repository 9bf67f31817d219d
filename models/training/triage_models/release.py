"""Measures a trained net and writes it into the zoo: `python -m triage_models.release METHOD`.

Owns the figures of the shipped model cards; their words are in `cards`. Every Dice is measured here, on the weights as
the zoo stores them (16 bit), on the 2 mm grid. What was seen on whole series is passed in by
`--seen`, a JSON object of texts, and copied.
"""

import argparse
import json
import os

import torch

from . import cards, data, demo_lesions, demo_lungs, export, loop, paper
from .interpret import Interpreter


class Stored(torch.nn.Module):
    """A graph of the zoo behind a net's interface."""

    def __init__(self, path):
        super().__init__()
        self.run = Interpreter(path)
        # The evaluation asks a net where its parameters are; this one's are constants of the graph.
        self.place = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x):
        outputs = self.run(x)
        return outputs if len(outputs) > 1 else outputs[0]


def lungs_quality(path, root):
    """Dice of the lung net of a zoo on the held-out data."""
    net = Stored(path)
    slices = data.lung_slices(root, True)
    sound = [s for s in slices if s.name not in data.FAULTY_MASKS]
    volume = data.volume_slices(data.lung_volumes(root, True))
    figures = {}
    for name, samples in (("held_out_sound_50", sound), ("held_out_all_53", slices), ("volume_id004", volume)):
        total, mean = demo_lungs.evaluate(net, samples)
        figures[f"{name}_volume_dice"], figures[f"{name}_mean_dice"] = round(total, 4), round(mean, 4)
    figures["how"] = "2 mm grid, threshold 0.5, weights as stored; volume Dice: all voxels of all slices together"
    return figures


def lesions_quality(path, root):
    """Dice of the lesion output of a zoo on the radiologists' test slices."""
    found = demo_lesions.evaluate(Stored(path), data.lesion_slices(root, "doctor_test"))
    figures = {f"lesion_doctor_test_mean_{key.replace('.', '_')}": round(value, 4) for key, value in found.items()}
    figures["how"] = (
        "mean Dice over the 48 slices at their own resolution, predicted on the 2 mm grid, weights as stored; "
        "dice_0_2 at the paper's threshold 0.2, which the daemon uses, dice_0_5 at 0.5"
    )
    return figures


def measured(method, path, root):
    return (lungs_quality if method == "lungs" else lesions_quality)(path, root)


def release(method, weights, root, out, seen, version="1"):
    """Writes a trained method and what is measured on it: the figures."""
    net = paper.net_of(method)
    net.load_state_dict(loop.read_weights(weights)[0])
    folder = os.path.join(out, method)
    card = {"version": version, "licence": cards.LICENCE, "data": cards.DATA[method], "quality": {}, "not_measured": cards.NOT_MEASURED[method]}
    export.write(folder, method, net.eval(), card)
    card["quality"] = dict(measured(method, os.path.join(folder, "model.onnx"), root), **seen)
    # Written twice since the figures are those of the stored weights.
    export.write(folder, method, net, card)
    return card["quality"]


def release_untrained(method, out):
    """The card of a method that has a recipe but no weights."""
    nothing = "Nothing: there are no weights."
    card = {"version": "0", "licence": cards.UNTRAINED_LICENCE, "data": cards.WITHOUT_WEIGHTS[method], "quality": {}, "not_measured": {"all": nothing}}
    export.write_zoo(os.path.join(out, method), method, {}, card)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=[*cards.DATA, *cards.WITHOUT_WEIGHTS])
    parser.add_argument("--data", help="the demonstration's files")
    parser.add_argument("--weights", help="weights.pt of the run; a method without weights needs neither")
    parser.add_argument("--seen", help="JSON object of texts for the card's quality")
    parser.add_argument("--version", default="1")
    parser.add_argument("--out", required=True, help="zoo folder")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.method in cards.WITHOUT_WEIGHTS:
        release_untrained(args.method, args.out)
        return
    if not args.data or not args.weights:
        parser.error("give --data and --weights")
    seen = {}
    if args.seen:
        with open(args.seen, encoding="utf-8") as file:
            seen = json.load(file)
    print(args.method, json.dumps(release(args.method, args.weights, args.data, args.out, seen, args.version), indent=1))


if __name__ == "__main__":
    main()
