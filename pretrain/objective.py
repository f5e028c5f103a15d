"""One batch of waveforms -> the joint loss, as one module that a trainer (or torch's DDP) can wrap."""

import torch
from torch import Tensor, nn

from maeast_upstream.config import Normalisation
from maeast_upstream.frontend import Fbank, num_frames
from maeast_upstream.model import MaeAst, patchify
from pretrain import masking
from pretrain.config import Recipe
from pretrain.losses import classification_loss, clip_loss, reconstruction_loss
from pretrain.mask_kinds import recipe_scores
from pretrain.normalise import Normaliser


class Objective(nn.Module):
    """The network, the front end before it and the losses behind it."""

    def __init__(self, recipe: Recipe, normalisation: Normalisation) -> None:
        super().__init__()
        self.recipe = recipe
        self.normalise = Normaliser(recipe.normalisation, normalisation)
        self.fbank = Fbank(recipe.frontend)
        self.network = MaeAst(recipe.model)
        self.clip_head = nn.Linear(recipe.model.embed_dim, recipe.losses.clip_dim) if recipe.losses.clip else None

    def patches(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, S) waveforms -> (B, N, P) normalised patches, without gradient; ``lengths`` (B,) samples where padded."""
        with torch.no_grad():
            frames = None if lengths is None else num_frames(lengths)
            return patchify(
                self.normalise(self.fbank(waveforms, lengths), frames),
                self.recipe.model,
            )

    def forward(
        self,
        patches: Tensor,
        visible: Tensor,
        masked: Tensor,
        padding: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The weighted losses by name, and their sum as ``loss``; arguments as `MaeAst.predict` takes them.

        With a clip loss, the batch holds one view of each clip, then the other view of each, in the same order.
        """
        weights = self.recipe.losses
        prediction = self.network.predict(patches, visible, masked, padding)
        absent = None if padding is None else padding.gather(1, masked)
        losses = {}
        if weights.reconstruction:
            losses["reconstruction"] = reconstruction_loss(prediction.reconstruction, prediction.targets, absent)
        if weights.classification:
            losses["classification"] = classification_loss(prediction.classification, prediction.targets, absent)
        if self.clip_head is not None:
            encoded = prediction.encoded
            if padding is not None:
                seen = (~padding.gather(1, visible))[..., None]
                encoded = encoded * seen * (seen.shape[1] / seen.sum(dim=1, keepdim=True))
            first, second = self.clip_head(encoded.mean(dim=1)).chunk(2)
            losses["clip"] = clip_loss(first, second, weights.clip_temperature)
        total = sum(getattr(weights, name) * value for name, value in losses.items())
        return {
            "loss": total,
            **{name: value.detach() for name, value in losses.items()},
        }

    def draw_masks(self, patches: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A fresh mask for each row of the batch: indices of its visible and of its masked tokens."""
        rows, tokens, _ = patches.shape
        mel = self.recipe.model.mel_patches
        scores = recipe_scores(masking.Grid(rows, tokens // mel, mel), self.recipe.masking, generator)
        return masking.split(scores, masking.num_masked(tokens, self.recipe.masking.ratio))
