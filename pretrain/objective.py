"""One batch of waveforms -> the joint loss, as one module that a trainer (or torch's DDP) can wrap."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from maeast_upstream.config import Normalisation
from maeast_upstream.frontend import Fbank, num_frames
from maeast_upstream.model import MaeAst, patchify, take
from maeast_upstream.modules.cpu.linear import Linear
from pretrain.config import Recipe
from pretrain.losses import classification_loss, clip_loss, normalised, reconstruction_loss
from pretrain.masking import rules
from pretrain.masking.kinds import recipe_scores

DECODER = ("decoder_embed", "decoder_mask", "decoder", "reconstruction_head", "classification_head")
"""Parts of the network that SSAST has no use for."""


class Objective(nn.Module):
    """The network, the front end before it and the losses behind it. What the recipe's losses never use is frozen."""

    def __init__(self, recipe: Recipe, normalisation: Normalisation) -> None:
        super().__init__()
        self.recipe = recipe
        self.normalise = Normaliser(recipe.normalisation, normalisation)
        self.fbank = Fbank(recipe.frontend)
        self.network = MaeAst(recipe.model)
        model, weights = recipe.model, recipe.losses
        self.clip_head = nn.Linear(model.embed_dim, weights.clip_dim) if weights.clip else None
        self.ssast = None
        if recipe.objective != "mae_ast":
            wanted = weights.reconstruction > 0, weights.classification > 0
            self.ssast = Heads(model.embed_dim, model.patch_dim, *wanted)
        for name in unused_parts(recipe):
            getattr(self.network, name).requires_grad_(False)

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

        ``masked`` may be some of the masked tokens: those that are predicted. Where a batch has two rows of each clip
        (the views of a clip loss, SSAST's two passes), it holds one of each clip, then the other, in the same order.
        """
        losses: dict[str, Tensor] = {}
        weights = self.recipe.losses
        predicts = bool(weights.reconstruction or weights.classification)
        if self.ssast is not None:
            encoded = self.network.encode_with_mask_tokens(patches, masked, padding)
            losses |= self._predictions(take(encoded, masked), patches, masked, padding)
        else:
            encoded = self.network.encode_visible(patches, visible, padding)
            if predicts:
                decoded = self.network.decode(encoded, visible, masked, patches.shape[1], padding)
                losses |= self._predictions(decoded, patches, masked, padding)
        if self.clip_head is not None:
            losses["clip"] = self._clip_loss(encoded, visible, padding)
        total = sum(getattr(weights, name) * value for name, value in losses.items())
        return {
            "loss": total,
            **{name: value.detach() for name, value in losses.items()},
        }

    def _predictions(
        self, decoded: Tensor, patches: Tensor, masked: Tensor, padding: Tensor | None
    ) -> dict[str, Tensor]:
        """The losses of what a decoder or SSAST's encoder says of the masked tokens, (B, n, D)."""
        weights, heads = self.recipe.losses, self.ssast
        targets = take(patches, masked)
        if weights.normalised_targets:
            targets = normalised(targets)
        absent = None if padding is None else padding.gather(1, masked)
        first = second = slice(None)
        if self.recipe.objective == "ssast_two_pass":
            first, second = slice(len(patches) // 2), slice(len(patches) // 2, None)
        losses = {}
        if weights.reconstruction:
            head = self.network.reconstruction_head if heads is None else heads.reconstruction
            own = None if absent is None else absent[first]
            losses["reconstruction"] = reconstruction_loss(head(decoded[first]), targets[first], own)  # type: ignore[misc]
        if weights.classification:
            head = self.network.classification_head if heads is None else heads.classification
            own = None if absent is None else absent[second]
            losses["classification"] = classification_loss(
                head(decoded[second]),  # type: ignore[misc]
                targets[second],
                own,
                weights.temperature,
            )
        return losses

    def _clip_loss(self, encoded: Tensor, visible: Tensor, padding: Tensor | None) -> Tensor:
        if padding is not None:
            seen = (~padding.gather(1, visible))[..., None]
            encoded = encoded * seen * (seen.shape[1] / seen.sum(dim=1, keepdim=True))
        assert self.clip_head is not None
        first, second = self.clip_head(encoded.mean(dim=1)).chunk(2)
        return clip_loss(first, second, self.recipe.losses.clip_temperature)

    def draw_masks(self, patches: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A fresh mask for each row of the batch: indices of its visible and of its masked tokens.

        With a clip loss between masks, rows 2i and 2i + 1 share no visible token.
        """
        rows, tokens, _ = patches.shape
        mel = self.recipe.model.mel_patches
        count = rules.num_masked(tokens, self.recipe.masking.ratio)
        scores = recipe_scores(
            rules.Grid(rows, tokens // mel, mel), self.recipe.masking.shares, self.recipe.masking.ratio, generator
        )
        if self.recipe.losses.clip and self.recipe.losses.clip_views == "masks":
            scores = rules.apart(scores, count)
        return rules.split(scores, count)

    def draw_batch(self, patches: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`draw_masks`, but of the masked tokens those only that are to be predicted."""
        visible, masked = self.draw_masks(patches, generator)
        share = self.recipe.losses.masked_share
        return visible, masked if share == 1.0 else rules.some(masked, share, generator)


def unused_parts(recipe: Recipe) -> list[str]:
    """Parts of the network that no loss of the recipe reaches."""
    if recipe.objective != "mae_ast":
        return list(DECODER)
    weights = recipe.losses
    if not (weights.reconstruction or weights.classification):
        return ["encoder_mask", *DECODER]
    heads = {"reconstruction_head": weights.reconstruction, "classification_head": weights.classification}
    return ["encoder_mask", *(name for name, weight in heads.items() if not weight)]


EPS, MOMENTUM = 1e-5, 0.1
"""Of the published BatchNorm2d over one channel."""


class Normaliser(nn.Module):
    """(x - mean) / std * scale, with the corpus's statistics or, as published, each batch's own.

    The latter keeps running ones for later, and takes the processes of a distributed run as one batch.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, kind: str, statistics: Normalisation) -> None:
        """``kind``: fixed or batch. ``statistics``: what is used, or what the running ones begin with."""
        super().__init__()
        self.kind, self.fixed = kind, statistics
        if kind == "batch":
            self.register_buffer("mean", torch.tensor(statistics.mean))
            self.register_buffer("var", torch.tensor(statistics.std**2))

    @property
    def statistics(self) -> Normalisation:
        """For a checkpoint."""
        if self.kind == "fixed":
            return self.fixed
        std = float((self.var.double() + EPS).sqrt())
        return Normalisation(mean=float(self.mean), std=std, scale=self.fixed.scale)

    def forward(self, fbank: Tensor, frames: Tensor | None = None) -> Tensor:
        """(B, frames, mels) -> the same; ``frames`` (B,) are each row's own where some are padded with zeros."""
        if self.kind == "fixed":
            return (fbank - self.fixed.mean) * (self.fixed.scale / self.fixed.std)
        if not self.training:
            return (fbank - self.mean) * (self.fixed.scale * (self.var + EPS).rsqrt())
        count = fbank.new_tensor(fbank.numel(), dtype=torch.float64)
        if frames is not None:
            count = frames.clamp(max=fbank.shape[1]).sum().double() * fbank.shape[2]
        # padding is zero and adds nothing to the sums; sums, because several processes add theirs
        sums = torch.stack([fbank.sum(dtype=torch.float64), fbank.double().square().sum(), count])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        mean, square, count = sums[0] / sums[2], sums[1] / sums[2], sums[2]
        var = square - mean.square()
        self.mean.lerp_(mean.float(), MOMENTUM)
        self.var.lerp_((var * count / (count - 1)).float(), MOMENTUM)
        return (fbank - mean.float()) * (self.fixed.scale * (var.float() + EPS).rsqrt())


class Heads(nn.Module):
    """Two layers with a ReLU between them, for each loss that is computed."""

    def __init__(self, embed_dim: int, patch_dim: int, reconstruction: bool, classification: bool) -> None:
        super().__init__()
        self.reconstruction = _head(embed_dim, patch_dim) if reconstruction else None
        self.classification = _head(embed_dim, patch_dim) if classification else None


def _head(embed_dim: int, patch_dim: int) -> nn.Sequential:
    return nn.Sequential(Linear(embed_dim, embed_dim), nn.ReLU(), Linear(embed_dim, patch_dim))
