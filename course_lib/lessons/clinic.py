"""The clinic of lesson 07: one training loop, which `fault` breaks in one of five ways."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from ..models.personality import TokenPersonalityModel
from ..training.callbacks import cosine_factor
from ..training.tokens import TokenDataset

__all__ = ["FAULTS", "PATIENTS", "train_patient"]

PATIENTS = {  # which fault each run of the clinic has
    "A": "labels shuffled apart",
    "B": "zero_grad forgotten",
    "C": "a leak",
    "D": "softmax before the loss",
    "E": "evaluation mode left on",
}
FAULTS = tuple(sorted(PATIENTS.values()))


def train_patient(
    fault: str, train: dict[str, Tensor], valid: dict[str, Tensor], device: torch.device
) -> dict[str, list[float]]:
    """The losses of ten epochs: of the training clips as they are learned, of the same clips asked
    again afterwards, and of the validation clips. Used in lesson 07.
    """
    face, motion, traits = (train[name] for name in ("face_tokens", "motion_tokens", "traits"))
    if fault == "labels shuffled apart":
        traits = traits[torch.randperm(len(traits))]
    if fault == "a leak":
        face = torch.cat([face, valid["face_tokens"]])
        motion = torch.cat([motion, valid["motion_tokens"]])
        traits = torch.cat([traits, valid["traits"]])

    def loss_of(face: Tensor, motion: Tensor, traits: Tensor) -> Tensor:
        output = model(face.to(device), motion.to(device))
        if fault == "softmax before the loss":
            output = output.softmax(dim=1)
        return F.mse_loss(output, traits.to(device))

    model = TokenPersonalityModel(64, 64).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    clips = TokenDataset(face, motion, traits=traits, shuffle=True)
    batches = DataLoader(clips, 32, shuffle=True, drop_last=True)
    learned, again, validation = [], [], []
    for epoch in range(10):
        model.train(fault != "evaluation mode left on")
        total = 0.0
        for number, batch in enumerate(batches):
            step = epoch * len(batches) + number
            optimizer.param_groups[0]["lr"] = 3e-3 * cosine_factor(step, 10 * len(batches))
            loss = loss_of(*batch)
            if fault != "zero_grad forgotten":
                optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        learned.append(total / len(batches))
        model.eval()
        with torch.no_grad():
            again.append(loss_of(face, motion, traits).item())
            tokens = valid["face_tokens"], valid["motion_tokens"]
            validation.append(loss_of(*tokens, valid["traits"]).item())
    return {"as learned": learned, "asked again": again, "validation": validation}
