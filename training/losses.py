"""What the model is taught by: answers, labels of patches and visual tokens, and where to look. No optimiser here."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .model import DemoModel, Seen, Shape
from .packing import Batch, tree_mask
from .pictures.labels import CLASSES, GLYPHS_PER_PATCH, Find

GLYPHS_PER_TOKEN = 4 * GLYPHS_PER_PATCH
GLANCE_HEADS = 2
QUESTION_LAYER = 1
ANSWER_LAYERS = (2, 3)
NOTHING_WEIGHT = 0.15  # of the class "nothing here", which is most of every picture
LABEL_WEIGHT, ANSWER_GLANCE_WEIGHT, QUESTION_GLANCE_WEIGHT = 0.5, 0.25, 0.2


class LabelHeads(nn.Module):
    """Linear readers of the vision tower, dropped on export."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.patch = nn.Linear(shape.vision.hidden, GLYPHS_PER_PATCH * CLASSES)
        self.token = nn.Linear(shape.text.hidden, (GLYPHS_PER_TOKEN + Find.WIDTH) * CLASSES)

    def forward(self, seen: Seen, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        pictures, patches, _ = batch.patch_labels.shape
        patch_logits = self.patch(F.layer_norm(seen.patches, seen.patches.shape[-1:]))
        token_logits = self.token(seen.tokens).view(pictures, patches // 4, -1, CLASSES)
        glyphs = batch.patch_labels.view(pictures, patches // 4, GLYPHS_PER_TOKEN)
        patch_loss, patch_right = _label_loss(patch_logits, batch.patch_labels)
        glyph_loss, glyph_right = _label_loss(token_logits[:, :, :GLYPHS_PER_TOKEN], glyphs)
        find_loss, find_right = _label_loss(token_logits[:, :, GLYPHS_PER_TOKEN:], batch.token_labels)
        shown = {"patch_right": patch_right, "glyph_right": glyph_right, "find_right": find_right}
        return patch_loss + glyph_loss + find_loss, shown


@dataclass(frozen=True, slots=True)
class Lesson:
    """The loss to follow and the figures to show."""

    loss: Tensor
    figures: dict[str, Tensor]


def look(model: DemoModel, heads: LabelHeads, batch: Batch) -> Lesson:
    """The vision tower alone, taught by its labels."""
    loss, figures = heads(model.model.visual(batch.pixels), batch)
    return Lesson(loss, figures)


def answer(model: DemoModel, heads: LabelHeads, batch: Batch) -> Lesson:
    """Everything: answers, labels and glances."""
    seen = model.model.visual(batch.pixels)
    label_loss, figures = heads(seen, batch)
    mask = tree_mask(batch.segments)
    hidden = model.read(batch.ids, batch.positions, mask, seen, batch.visible)
    answered = batch.targets >= 0
    logits, targets, weights = model.logits(hidden[answered]).float(), batch.targets[answered], batch.weights[answered]
    each = F.cross_entropy(logits, targets, reduction="none")
    answer_loss = (each * weights).sum() / weights.sum()
    layers = [layer.self_attn for layer in model.model.language_model.layers]
    glances = [_glance(layers[n].recorded, mask, batch.answer_glances, batch.weights) for n in ANSWER_LAYERS]
    ones = torch.ones_like(batch.weights)
    question_loss, question_mass = _glance(layers[QUESTION_LAYER].recorded, mask, batch.question_glances, ones)
    glance_loss = ANSWER_GLANCE_WEIGHT * sum(loss for loss, _ in glances) + QUESTION_GLANCE_WEIGHT * question_loss
    figures |= {
        "answer_loss": answer_loss.detach(),
        "token_right": (logits.argmax(-1) == targets).float().mean(),
        "glance": sum(mass for _, mass in glances) / len(glances),
        "question_glance": question_mass,
    }
    return Lesson(answer_loss + LABEL_WEIGHT * label_loss + glance_loss, figures)


def _label_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy, and the share of "something here" labels that are exactly right."""
    flat, wanted = logits.reshape(-1, CLASSES).float(), labels.reshape(-1).long()
    something = (wanted > 0).float()
    weights = something + NOTHING_WEIGHT * (1 - something)
    loss = (F.cross_entropy(flat, wanted, reduction="none") * weights).sum() / weights.sum()
    right = (flat.detach().argmax(-1) == wanted).float()
    return loss, (right * something).sum() / something.sum().clamp(min=1)


def _glance(recorded: tuple[Tensor, Tensor] | None, mask: Tensor, where: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """-log of the attention that the first heads pay to the visual token where the character is to be seen."""
    assert recorded is not None
    query, key = recorded[0][:, :GLANCE_HEADS], recorded[1][:, :GLANCE_HEADS]
    losses, masses, total = [], [], []
    for row in range(len(where)):
        at = (where[row] >= 0).nonzero()[:, 0]
        if len(at) == 0:
            continue
        scores = (query[row][:, at].float() @ key[row].float().mT) * query.shape[-1] ** -0.5
        logs = scores.masked_fill(~mask[row, 0, at], float("-inf")).log_softmax(-1)
        found = logs[:, torch.arange(len(at)), where[row, at]]
        losses.append((found * weights[row, at]).sum())
        masses.append(found.detach().exp().sum())
        total.append((weights[row, at].sum(), len(at)))
    if not losses:
        return query.sum() * 0, torch.zeros(())
    weight, count = sum(share for share, _ in total), sum(number for _, number in total)
    return -sum(losses) / (weight * GLANCE_HEADS), sum(masses) / (count * GLANCE_HEADS)
