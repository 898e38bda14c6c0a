"""What the model is taught by: answers, labels of patches and visual tokens, and where to look. No optimiser here."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .model import DemoModel, Seen, Shape
from .packing import Batch, tree_mask
from .pictures.labels import CLASSES, GLYPHS_PER_PATCH, Find, Half, Link

GLYPHS_PER_TOKEN = 4 * GLYPHS_PER_PATCH
GLYPHS_PER_HALF = 2 * GLYPHS_PER_PATCH
GLANCE_HEADS = slice(0, 2)
HALF_HEADS = {Half.UPPER: slice(0, 1), Half.LOWER: slice(1, 2)}  # of the answer's layers: the half that each reads
QUESTION_LAYER = 1
ANSWER_LAYERS = (2, 3)
NOTHING_WEIGHT = 0.15  # of the class "nothing here", which is most of every picture
LINK_BLOCKS = (3, 4)  # early enough for another block to use what was fetched
LINK_HEADS = {
    Link.PARTNER: slice(0, 2),
    Link.HIGHEST: slice(2, 3),
    Link.LOWEST: slice(3, 4),
    Link.PREVIOUS: slice(4, 5),
}
LINK_WEIGHT, PLACE_WEIGHT = 0.5, 4.0
LABEL_WEIGHT, ANSWER_GLANCE_WEIGHT, QUESTION_GLANCE_WEIGHT = 0.5, 0.4, 0.2
SIDES_WEIGHT, HALVES_WEIGHT = 4.0, 1.0
CROWDED_WEIGHT = 3.0  # of what is read off a token that holds two lines: rare, and where nearly all mistakes are

SeenAt = tuple[Tensor, Tensor, Tensor]  # what `_seen_tokens` gives


class LabelHeads(nn.Module):
    """Linear readers of the vision tower and of the decoder, dropped on export."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.patch = nn.Linear(shape.vision.hidden, GLYPHS_PER_PATCH * CLASSES)
        self.token = nn.Linear(shape.text.hidden, (GLYPHS_PER_TOKEN + Find.SIDE) * CLASSES)
        self.place = nn.Linear(shape.text.hidden, 6)
        self.sides = nn.Linear(shape.text.hidden, 4)
        self.halves = nn.ModuleDict(
            {
                f"{n}-{half}": nn.Linear(shape.text.head_dim, GLYPHS_PER_HALF * CLASSES)
                for n in ANSWER_LAYERS
                for half in HALF_HEADS
            }
        )

    def forward(self, seen: Seen, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        pictures, patches, _ = batch.patch_labels.shape
        patch_logits = self.patch(F.layer_norm(seen.patches, seen.patches.shape[-1:]))
        token_logits = self.token(seen.tokens).view(pictures, patches // 4, -1, CLASSES)
        glyphs = batch.patch_labels.view(pictures, patches // 4, GLYPHS_PER_TOKEN)
        patch_loss, patch_right = _label_loss(patch_logits, batch.patch_labels)
        glyph_loss, glyph_right = _label_loss(token_logits[:, :, :GLYPHS_PER_TOKEN], glyphs)
        find_loss, find_right = _label_loss(token_logits[:, :, GLYPHS_PER_TOKEN:], batch.token_labels[..., : Find.SIDE])
        own_error, box_error = self._place_errors(seen, batch)
        shown = {
            "patch_right": patch_right,
            "glyph_right": glyph_right,
            "find_right": find_right,
            "own_error": own_error.detach(),
            "box_error": box_error.detach(),
        }
        return patch_loss + glyph_loss + find_loss + PLACE_WEIGHT * (own_error + box_error), shown

    def _place_errors(self, seen: Seen, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean distance, in picture sides, of the token's own place and of its object's box."""
        distance = (self.place(seen.tokens).float() - batch.places).abs()
        on_object = (batch.token_labels[..., Find.OBJECT] > 0).float()[..., None]
        return distance[..., :2].mean(), (distance[..., 2:] * on_object).sum() / on_object.sum().clamp(min=1) / 4


@dataclass(frozen=True, slots=True)
class Lesson:
    """The loss to follow and the figures to show."""

    loss: Tensor
    figures: dict[str, Tensor]


def look(model: DemoModel, heads: LabelHeads, batch: Batch) -> Lesson:
    """The vision tower alone, taught by its labels."""
    loss, figures = heads(model.model.visual(batch.pixels), batch)
    link_loss, masses = _link_loss(model, batch)
    figures |= masses
    return Lesson(loss + LINK_WEIGHT * link_loss, figures)


def answer(model: DemoModel, heads: LabelHeads, batch: Batch) -> Lesson:
    """Everything: answers, labels and glances."""
    seen = model.model.visual(batch.pixels)
    label_loss, figures = heads(seen, batch)
    link_loss, masses = _link_loss(model, batch)
    figures |= masses
    mask = tree_mask(batch.segments)
    hidden = model.read(batch.ids, batch.positions, mask, seen, batch.visible)
    answered = batch.targets >= 0
    seen_at = _seen_tokens(batch)
    all_weights = _weights(batch, seen_at)
    logits, targets, weights = model.logits(hidden[answered]).float(), batch.targets[answered], all_weights[answered]
    each = F.cross_entropy(logits, targets, reduction="none")
    answer_loss = (each * weights).sum() / weights.sum()
    layers = [layer.self_attn for layer in model.model.language_model.layers]
    glances = [
        _glance(layers[n].recorded, head, _in_half(batch, half), all_weights, mask)
        for n in ANSWER_LAYERS
        for half, head in HALF_HEADS.items()
    ]
    question_loss, question_mass = _glance(
        layers[QUESTION_LAYER].recorded, GLANCE_HEADS, batch.question_glances, torch.ones_like(batch.weights), mask
    )
    glance_loss = ANSWER_GLANCE_WEIGHT / 2 * sum(loss for loss, _ in glances) + QUESTION_GLANCE_WEIGHT * question_loss
    sides_error = _sides_error(heads, hidden, batch, seen_at)
    halves_loss, halves_right = _halves_loss(model, heads, batch)
    figures |= {
        "sides_error": sides_error.detach(),
        "halves_right": halves_right,
        "answer_loss": answer_loss.detach(),
        "token_right": (logits.argmax(-1) == targets).float().mean(),
        "glance": sum(mass for _, mass in glances) / len(glances),
        "question_glance": question_mass,
    }
    seen_loss = LABEL_WEIGHT * (label_loss + LINK_WEIGHT * link_loss)
    told_loss = SIDES_WEIGHT * sides_error + HALVES_WEIGHT * halves_loss
    return Lesson(answer_loss + seen_loss + glance_loss + told_loss, figures)


def _seen_tokens(batch: Batch) -> SeenAt:
    """Rows and columns of what is read off a picture, and from which visual token.

    These are numbered through all pictures of the batch, as their labels are.
    """
    rows, columns = (batch.answer_glances >= 0).nonzero(as_tuple=True)
    number = (batch.visible.flatten().cumsum(0) - 1).view_as(batch.ids)
    return rows, columns, number[rows, batch.answer_glances[rows, columns]]


def _weights(batch: Batch, seen_at: SeenAt) -> Tensor:
    """The answers' weights, higher where two lines lie in the token that is read."""
    rows, columns, seen = seen_at
    labels = batch.token_labels.flatten(0, 1)[seen]
    crowded = (labels[:, Find.ROLE] > 0) & (labels[:, Find.LOWER_ROLE] > 0)
    weights = batch.weights.clone()
    weights[rows[crowded], columns[crowded]] *= CROWDED_WEIGHT
    return weights


def _in_half(batch: Batch, half: Half) -> Tensor:
    """Where the head of this half is to look: at what lies in it, else away, at the first token of the prompt.

    Both lines of a token that holds two reach the decoder at once; one head for each keeps them apart.
    """
    elsewhere = (batch.answer_glances >= 0) & (batch.answer_halves == (Half.LOWER - half))
    return batch.answer_glances.masked_fill(elsewhere, 0)


def _halves_loss(model: DemoModel, heads: LabelHeads, batch: Batch) -> tuple[Tensor, Tensor]:
    """The head of a half hands over that half's letters, which its share of 32 numbers has no room for otherwise."""
    glyphs = batch.patch_labels.reshape(-1, 4, GLYPHS_PER_PATCH)
    losses, rights = [], []
    for n in ANSWER_LAYERS:
        values = model.model.language_model.layers[n].self_attn.values
        for half, head in HALF_HEADS.items():
            given = values[:, head.start][batch.visible]
            logits = heads.halves[f"{n}-{half}"](given).view(len(given), GLYPHS_PER_HALF, CLASSES)
            loss, right = _label_loss(logits, glyphs[:, 2 * half : 2 * half + 2].reshape(len(given), -1))
            losses.append(loss)
            rights.append(right)
    return sum(losses) / len(losses), sum(rights) / len(rights)


def _sides_error(heads: LabelHeads, hidden: Tensor, batch: Batch, seen_at: SeenAt) -> Tensor:
    """Mean distance, in picture sides, of the box of the object that the next token is read from.

    Digits alone teach the decoder the hundreds of a side and leave its tens to chance.
    """
    rows, columns, seen = seen_at
    on_object = batch.token_labels[..., Find.OBJECT].flatten()[seen] > 0
    wanted = batch.places.flatten(0, 1)[seen[on_object], 2:]
    if len(wanted) == 0:
        return hidden.sum() * 0
    given = heads.sides(hidden[rows[on_object], columns[on_object]]).float()
    return (given - wanted).abs().mean()


def _label_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy, and the share of "something here" labels that are exactly right."""
    flat, wanted = logits.reshape(-1, CLASSES).float(), labels.reshape(-1).long()
    something = (wanted > 0).float()
    weights = something + NOTHING_WEIGHT * (1 - something)
    loss = (F.cross_entropy(flat, wanted, reduction="none") * weights).sum() / weights.sum()
    right = (flat.detach().argmax(-1) == wanted).float()
    return loss, (right * something).sum() / something.sum().clamp(min=1)


def _link_loss(model: DemoModel, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The vision tower's glances: the loss, and the attention that goes where each kind of link leads."""
    blocks, evenly = model.model.visual.blocks, torch.ones_like(batch.patch_links[:, 0], dtype=torch.float32)
    losses, masses = [], {}
    for link, heads in LINK_HEADS.items():
        glances = [_glance(blocks[n].attn.recorded, heads, batch.patch_links[:, link], evenly) for n in LINK_BLOCKS]
        losses += [loss for loss, _ in glances]
        masses[link.name.lower()] = sum(mass for _, mass in glances) / len(glances)
    return sum(losses) / len(LINK_BLOCKS), masses


def _glance(
    recorded: tuple[Tensor, Tensor] | None, heads: slice, where: Tensor, weights: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """-log of the attention that these heads pay to the place `where` (batch, length; -1: none), and its mean."""
    assert recorded is not None
    query, key = recorded[0][:, heads], recorded[1][:, heads]
    losses, masses, weight, count = [], [], torch.zeros(()), 0
    for row in range(len(where)):
        at = (where[row] >= 0).nonzero()[:, 0]
        if len(at) == 0:
            continue
        scores = (query[row][:, at].float() @ key[row].float().mT) * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[row, 0, at], float("-inf"))
        found = scores.log_softmax(-1)[:, torch.arange(len(at)), where[row, at]]
        losses.append((found * weights[row, at]).sum())
        masses.append(found.detach().exp().sum())
        weight, count = weight + weights[row, at].sum(), count + len(at)
    if not losses:
        return query.sum() * 0, torch.zeros(())
    return -sum(losses) / (weight * query.shape[1]), sum(masses) / (count * query.shape[1])
