"""The training loop of every method: steps, checkpoints, TensorBoard, mixed precision.

Owns the files of a run: `last.pt` (all that is needed to go on), `best.pt` (the net's weights and the figures that they were picked by),
`weights.pt` (those of the last step alone), `figures.json` (the last epoch's) and the TensorBoard events under `logs`. Knows nothing of data or
nets: those come as a `Recipe`.

All chance in step i is drawn from the seed and i alone. So a run that was killed and goes on from `last.pt` takes the same steps as one
that was not, and on a processor ends with the same bits (on a GPU sums may be taken in another order).
"""

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from typing import Callable, Optional

import numpy as np
import torch

LOG_EVERY = 20


@dataclass
class Recipe:
    """What is trained, and how."""

    net: torch.nn.Module
    # RandomState -> dictionary of tensors.
    batch: Callable
    # (net, batch on the device) -> dictionary of scalars; `loss` is the one to descend.
    loss: Callable
    # Parameters -> optimizer.
    optimizer: Callable
    # Step, from 0 -> learning rate.
    rate: Callable
    steps: int
    # Steps between checkpoints: the paper's epoch.
    epoch: int
    # Net -> dictionary of figures, after each epoch.
    validate: Optional[Callable] = None
    # The figure by which `best.pt` is picked, the larger the better; none: the last weights count.
    better: Optional[str] = None
    # What `validate` measures on, in words for the card.
    validated_on: str = ""
    # All numbers and names that the result depends on, to go on with a run only as it was begun.
    settings: dict = field(default_factory=dict)


class TrainingError(Exception):
    """A run that can't start or go on."""


def chance(seed, step):
    """The randomness of a step; PyTorch's (dropout) is set too."""
    torch.manual_seed(seed * 1_000_003 + step)
    return np.random.RandomState([seed, step])


def save(path, value):
    """`torch.save` that leaves either the old file or the new one, whole."""
    torch.save(value, path + ".part")
    with open(path + ".part", "rb") as file:
        os.fsync(file.fileno())
    os.replace(path + ".part", path)


def weights_of(net):
    return {key: value.detach().cpu() for key, value in net.state_dict().items()}


def read_weights(path):
    """(weights, the figures that they were picked by or {}) of a `best.pt` or a `weights.pt`."""
    found = torch.load(path, map_location="cpu")
    return (found["net"], found["figures"]) if set(found) == {"net", "figures"} else (found, {})


class Precision:
    """float32, or mixed: float16 with scaled gradients on a GPU, bfloat16 on a processor."""

    def __init__(self, device, mixed):
        self.device, self.mixed = torch.device(device).type, mixed
        self.type = torch.float16 if self.device == "cuda" else torch.bfloat16
        self.scaler = torch.cuda.amp.GradScaler(enabled=mixed and self.device == "cuda")

    def __str__(self):
        return str(self.type if self.mixed else torch.float32)

    def autocast(self):
        return torch.autocast(self.device, dtype=self.type) if self.mixed else contextlib.nullcontext()

    def step(self, loss, optimizer):
        optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(optimizer)
        self.scaler.update()


class Run:
    """A recipe in a folder, at some step."""

    def __init__(self, recipe, out, seed=0, device="cpu", mixed=False, resume=False):
        self.recipe, self.out, self.seed, self.device = recipe, out, seed, device
        os.makedirs(out, exist_ok=True)
        self.net = recipe.net.to(device)
        self.optimizer = recipe.optimizer(self.net.parameters())
        self.precision = Precision(device, mixed)
        self.done, self.best, self.losses, self.figures = 0, None, [], {}
        self.last = os.path.join(out, "last.pt")
        if resume and os.path.exists(self.last):
            self.load()
        elif not resume and os.path.exists(self.last):
            raise TrainingError(f"{out} holds a run already: give --resume to go on with it, or another folder")

    def load(self):
        state = torch.load(self.last, map_location=self.device)
        begun, now = state.get("settings", {}), self.settings()
        other = [f"{key} {begun.get(key)}, not {now.get(key)}" for key in sorted({*begun, *now}) if begun.get(key) != now.get(key)]
        if other:
            raise TrainingError(f"{self.last} was begun with {'; '.join(other)}: go on as it was begun, or start in another folder")
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.scaler.load_state_dict(state["scaler"])
        self.done, self.best, self.losses, self.figures = (state[key] for key in ("done", "best", "losses", "figures"))

    def settings(self):
        """What must not change within a run; as JSON has it, so that it compares with what was read back."""
        recipe = self.recipe
        own = {"seed": self.seed, "precision": str(self.precision), "steps": recipe.steps, "epoch": recipe.epoch}
        return json.loads(json.dumps({**recipe.settings, **own}))

    def checkpoint(self):
        state = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "scaler": self.precision.scaler.state_dict()}
        save(self.last, dict(state, done=self.done, best=self.best, losses=self.losses, figures=self.figures, settings=self.settings()))

    def step(self):
        """One step: its losses as numbers."""
        recipe = self.recipe
        batch = {key: value.to(self.device) for key, value in recipe.batch(chance(self.seed, self.done)).items()}
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.done)
        self.net.train()
        with self.precision.autocast():
            losses = recipe.loss(self.net, batch)
        self.precision.step(losses["loss"], self.optimizer)
        self.done += 1
        losses = {key: float(value.detach()) for key, value in losses.items()}
        if not np.isfinite(losses["loss"]):
            raise TrainingError(f"the loss of step {self.done} is {losses['loss']}; the last checkpoint is that of an earlier step")
        self.losses.append(losses["loss"])
        return losses

    def end_epoch(self, log):
        """Figures, the best weights, the checkpoint."""
        figures = {"step": self.done}
        if self.recipe.validate is not None:
            self.net.eval()
            with torch.no_grad():
                figures.update(self.recipe.validate(self.net))
            for key, value in figures.items():
                log.add_scalar(f"validation/{key}", value, self.done)
        self.figures = figures
        value = figures.get(self.recipe.better)
        if value is not None and (self.best is None or value >= self.best):
            self.best = value
            save(os.path.join(self.out, "best.pt"), {"net": weights_of(self.net), "figures": figures})
        with open(os.path.join(self.out, "figures.json"), "w", encoding="utf-8") as file:
            json.dump(figures, file)
        self.checkpoint()
        print(json.dumps(figures), flush=True)

    def result(self):
        """(weights, their figures, name of the file) of a finished run: the best epoch's, or the last's where none was picked."""
        best = os.path.join(self.out, "best.pt")
        if os.path.exists(best):
            return (*read_weights(best), "best.pt")
        return read_weights(os.path.join(self.out, "weights.pt"))[0], self.figures, "weights.pt"

    def go(self, until=None):
        """Trains to the recipe's last step, or to `until`; the losses of all steps."""
        from tensorboardX import SummaryWriter

        until, started, first = until or self.recipe.steps, time.time(), self.done
        with SummaryWriter(os.path.join(self.out, "logs"), purge_step=self.done) as log:
            while self.done < until:
                losses = self.step()
                for key, value in losses.items():
                    log.add_scalar(f"train/{key}", value, self.done)
                log.add_scalar("train/rate", self.recipe.rate(self.done - 1), self.done)
                if self.done % LOG_EVERY == 0:
                    mean, pace = np.mean(self.losses[-LOG_EVERY:]), (time.time() - started) / (self.done - first)
                    print(f"step {self.done} loss {mean:.4f} {pace:.2f} s a step", flush=True)
                if self.done % self.recipe.epoch == 0 or self.done == self.recipe.steps:
                    self.end_epoch(log)
        if self.done == self.recipe.steps:
            save(os.path.join(self.out, "weights.pt"), weights_of(self.net))
        return self.losses
