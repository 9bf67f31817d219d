"""Measures trained nets and writes them as the zoo: `python -m triage_models.release`.

Owns the words and figures of the shipped model cards. Every Dice is measured here, on the weights as
the zoo stores them (16 bit), on the 2 mm grid. What was seen on whole series is passed in by
`--seen`, a JSON object of texts, and copied.
"""

import argparse
import json
import os

import torch

from . import data, export, train_lungs, train_multitask
from .interpret import Interpreter
from .nets import LungNet, MultitaskSpatial

LICENCE = "CC-BY-NC-4.0 (weights: non-commercial, from the training data)"

LUNGS_DATA = {
    "training": (
        "lung_slices.npz (Kaggle, Finding lungs in CT data): 266 mid-chest slices with lung masks, less the held-out "
        "ones and four with faulty masks; three volumes of lung_volumes.npz with the slices above and below the lungs; "
        "digital phantoms (triaged phantom, seeds 1001 and up) with lesions of 0 to 90 %. Synthetic ground glass and "
        "consolidation of up to a whole lung are pasted into a third of the slices with the mask unchanged, bowel gas "
        "and meals into slices with little lung."
    ),
    "unlabelled_negatives": (
        "normal-001 of the look-only CT folders: its slices 0 to 6 and 146 to 153 (head first, no lung in them) "
        "were trained on as empty. So its masks there are no test."
    ),
    "held_out": (
        "Every fifth slice of lung_slices.npz (index % 5 == 4, 53 slices) and the volume id004. Three of the 53 "
        "truths are faulty: ID_0079_Z_0072 (a lung left out), ID_0134_Z_0137 and ID_0254_Z_0075 (air around the body)."
    ),
    "licence": "Non-commercial (Kaggle set); lung_volumes: none given, research use. The weights follow.",
}
LUNGS_NOT_MEASURED = {
    "note": (
        "No Dice on diseased lungs: no such truth was at hand; containment of consolidations was judged by eye on "
        "three series, and measured on phantoms only. Not measured: children, prone patients, contrast phases, "
        "effusion, pneumothorax, lungs after surgery, other scanners than the data's. The pixel spacing of the "
        "held-out slices is unknown; 1.4 mm was taken for all."
    ),
}
MULTITASK_DATA = {
    "training": (
        "Lesions: 50 slices labelled by radiologists (COVID-SemiSeg, Fan et al. 2020), 800 pseudo-labelled slices of 20 "
        "volumes (low weight), healthy slices of the lung data (empty mask), the same with synthetic opacities (exact "
        "mask), digital phantoms. 8-bit pictures were brought to HU by their lung and soft-tissue peaks. "
        "Identification head: on the frozen backbone, pairs of the same volume with and without lesions put in "
        "(synthetic ones, and real ones cut out of the pseudo-labelled slices); nodules, a lobar consolidation, a "
        "dependent band or healthy patches of the same pictures as negatives; three lung volumes, stacks of slices of "
        "different patients, phantoms. No volume with a diagnosis took part."
    ),
    "held_out": (
        "lesion_doctor_test.npz, 48 slices: never trained on. It was looked at during training: the weight of diseased "
        "voxels was raised once after its figures were seen; no checkpoint was picked by it. Volume id004 and every "
        "fifth phantom for the head; its recipe was revised twice after a look at its answer on covid-p001."
    ),
    "licence": "Non-commercial (COVID-SemiSeg, Kaggle); lung_volumes: none given, research use. The weights follow.",
}
MULTITASK_NOT_MEASURED = {
    "identification": (
        "No accuracy of any kind is claimed: there are too few volumes with a diagnosis. The head knows lesions "
        "that were put in by a program; its probability is a demonstration and must not decide about a patient."
    ),
    "lesions": (
        "The Dice is on slices of unknown spacing, from publications, each brought to about 2 mm by its size. Not measured: "
        "severity against a reader on whole volumes, other diseases (bacterial pneumonia, oedema, tumours and "
        "atelectasis may count as lesions), sharp kernels, slices over 5 mm."
    ),
}


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
        total, mean = train_lungs.evaluate(net, samples)
        figures[f"{name}_volume_dice"], figures[f"{name}_mean_dice"] = round(total, 4), round(mean, 4)
    figures["how"] = "2 mm grid, threshold 0.5, weights as stored; volume Dice: all voxels of all slices together"
    return figures


def multitask_quality(path, root):
    """Dice of the lesion head of a zoo on the radiologists' test slices."""
    found = train_multitask.evaluate(Stored(path), data.lesion_slices(root, "doctor_test"))
    figures = {f"lesion_doctor_test_mean_{key.replace('.', '_')}": round(value, 4) for key, value in found.items()}
    figures["how"] = (
        "mean Dice over the 48 slices at their own resolution, predicted on the 2 mm grid, weights as stored; "
        "dice_0_2 at the paper's threshold 0.2, which the daemon uses, dice_0_5 at 0.5"
    )
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--lungs", required=True, help="checkpoint of train_lungs")
    parser.add_argument("--multitask", required=True, help="checkpoint of train_identification")
    parser.add_argument("--seen", help="JSON: {lungs: {...}, multitask: {...}}, texts for the cards")
    parser.add_argument("--version", default="1")
    parser.add_argument("--out", required=True, help="zoo folder")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    seen = {"lungs": {}, "multitask": {}}
    if args.seen:
        with open(args.seen, encoding="utf-8") as file:
            seen = json.load(file)
    lungs, multitask = LungNet(), MultitaskSpatial()
    lungs.load_state_dict(torch.load(args.lungs))
    multitask.load_state_dict(torch.load(args.multitask))
    plan = (
        ("lungs", export.write_lungs, lungs.eval(), lungs_quality, LUNGS_DATA, LUNGS_NOT_MEASURED),
        ("multitask-spatial-1", export.write_multitask, multitask.eval(), multitask_quality, MULTITASK_DATA, MULTITASK_NOT_MEASURED),
    )
    for folder, write, net, measure, described, missing in plan:
        path = os.path.join(args.out, folder)
        card = {"version": args.version, "licence": LICENCE, "data": described, "quality": {}, "not_measured": missing}
        write(path, net, card)
        card["quality"] = dict(measure(os.path.join(path, "model.onnx"), args.data), **seen[folder.split("-")[0]])
        # Written twice since the figures are those of the stored weights.
        write(path, net, card)
        print(folder, json.dumps(card["quality"], indent=1))


if __name__ == "__main__":
    main()
