"""One batch of patches -> the weighted sum of the losses, as one module that a trainer (or torch's DDP) can wrap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from maeast_upstream.config import Normalisation
from maeast_upstream.frontend import Fbank, FrontendConfig, num_frames
from maeast_upstream.model import MaeAst, ModelConfig, gather_tokens, patchify
from maeast_upstream.modules.cpu.linear import Linear
from pretrain.cluster_head import ClusterHead
from pretrain.config import LossConfig
from pretrain.latent import Latent
from pretrain.losses import (
    classification_loss,
    clip_loss,
    cluster_loss,
    label_loss,
    normalize_patches,
    reconstruction_loss,
    teacher_loss,
)
from pretrain.recipe import ObjectiveName

DECODER = ("decoder_embed", "decoder_mask", "decoder", "reconstruction_head", "classification_head")
"""Parts of the network that SSAST does not use."""


@dataclass(frozen=True)
class TargetSizes:
    """How many values the heads predict that are trained with targets from elsewhere, see `pretrain.targets`."""

    teachers: tuple[int, ...] = ()
    """Length of the vectors of each teacher."""
    labels: tuple[int, ...] = ()
    """Number of classes of each column of labels."""
    clusters: int = 0
    """Number of clusters of tokens."""


class Objective(nn.Module):
    """The network with the front end before it and the losses behind it."""

    def __init__(
        self,
        model: ModelConfig,
        losses: LossConfig,
        frontend: FrontendConfig,
        normalizer: "Normalizer",
        name: ObjectiveName = "mae_ast",
        sizes: TargetSizes | None = None,
    ) -> None:
        """Build the network with random weights, and freeze the parts that no loss reaches.

        Args:
            model: shape of the network.
            losses: weights of the losses.
            frontend: how the spectrogram is made.
            normalizer: how the spectrogram is normalised.
            name: MAE-AST, or the SSAST baseline in one or two passes.
            sizes: how many values the heads of losses with targets predict.
        """
        super().__init__()
        self.name, self.losses = name, losses
        self.normalise = normalizer  # its buffers are stored in run states under this name
        self.fbank = Fbank(frontend)
        self.network = MaeAst(model)
        self.clip_head = nn.Linear(model.embed_dim, losses.clip_dim) if losses.clip else None
        sizes = sizes or TargetSizes()
        self.label_weights = tuple(losses.label_weights.values())
        self.label_heads = _linear_heads(model.embed_dim, sizes.labels) if losses.supervised else None
        self.teacher_heads = _linear_heads(model.embed_dim, sizes.teachers) if losses.teacher else None
        self.ssast = SsastHeads(model.embed_dim, model.patch_dim, losses) if name != "mae_ast" else None
        self.latent = Latent(self.network, losses) if losses.latent else None
        self.cluster_head = ClusterHead(model.decoder_dim, sizes.clusters, losses) if losses.cluster else None
        for part in unused_parts(name, losses):
            getattr(self.network, part).requires_grad_(False)

    def begin_with(self, network: Mapping[str, Tensor]) -> None:
        """Take over a network's weights, by name."""
        self.network.load_state_dict(network)
        if self.latent is not None:
            self.latent.follow(self.network, 0.0)

    def after_update(self, step: int) -> None:
        """Let the moving average of a latent loss follow the weights of update ``step``, counted from 0."""
        if self.latent is not None:
            self.latent.follow(self.network, self.latent.decay(step))

    @torch.no_grad()
    def patches(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, S) waveforms -> (B, N, P) normalised patches, without gradient.

        Args:
            waveforms: (B, S) at 16 kHz.
            lengths: (B,) samples of each row if some are padded.
        """
        frames = None if lengths is None else num_frames(lengths)
        return patchify(self.normalise(self.fbank(waveforms, lengths), frames), self.network.config)

    def forward(
        self,
        patches: Tensor,
        visible: Tensor,
        masked: Tensor,
        padding: Tensor | None = None,
        targets: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The losses by name, and their weighted sum as ``loss``.

        A batch may hold two rows of each clip: the views of a clip loss, or SSAST's two passes. The first rows of all
        clips then come before the second rows, in the same order.

        Args:
            patches: (B, N, P) normalised patches.
            visible: (B, K) int64 indices of the tokens that the encoder sees.
            masked: (B, n) int64 indices of the tokens that are predicted: all masked tokens or a share of them.
            padding: (B, N) bool, True at tokens past a clip's end.
            targets: what `pretrain.targets` looked up for the rows, by name; None computes no loss that needs it.
        """
        values: dict[str, Tensor] = {}
        if self.ssast is not None:
            encoded = self.network.encode_with_mask_tokens(patches, masked, padding)
            values |= self._predictions(gather_tokens(encoded, masked), patches, masked, padding)
        else:
            encoded = self.network.encode_visible(patches, visible, padding)
            if self.losses.predicts:
                decoded = self.network.decode(encoded, visible, masked, patches.shape[1], padding)
                values |= self._predictions(decoded, patches, masked, padding)
                if self.latent is not None:
                    values["latent"] = self.latent(decoded, patches, masked, padding)
                if self.cluster_head is not None and targets is not None:
                    absent = None if padding is None else padding.gather(1, masked)
                    clusters = targets["clusters"].gather(1, masked)
                    values["cluster"] = cluster_loss(self.cluster_head(decoded), clusters, absent)
        if self.clip_head is not None:
            values["clip"] = self._clip_loss(self.clip_head, encoded, visible, padding)
        if targets is not None and (self.label_heads or self.teacher_heads):
            values |= self._target_losses(self._pooled(encoded, visible, padding), targets)
        total = sum(getattr(self.losses, name) * value for name, value in values.items())
        return {"loss": total, **{name: value.detach() for name, value in values.items()}}

    def _predictions(
        self, decoded: Tensor, patches: Tensor, masked: Tensor, padding: Tensor | None
    ) -> dict[str, Tensor]:
        """The losses of predicted tokens: (B, n, D) outputs of the decoder, or of SSAST's encoder."""
        targets = gather_tokens(patches, masked)
        if self.losses.normalize_targets:
            targets = normalize_patches(targets)
        absent = None if padding is None else padding.gather(1, masked)
        first = second = slice(None)
        if self.name == "ssast_two_pass":
            first, second = slice(len(patches) // 2), slice(len(patches) // 2, None)
        values = {}
        if self.losses.reconstruction:
            head = self.network.reconstruction_head if self.ssast is None else self.ssast["reconstruction"]
            missing = None if absent is None else absent[first]
            values["reconstruction"] = reconstruction_loss(head(decoded[first]), targets[first], missing)
        if self.losses.classification:
            head = self.network.classification_head if self.ssast is None else self.ssast["classification"]
            missing = None if absent is None else absent[second]
            values["classification"] = classification_loss(
                head(decoded[second]),
                targets[second],
                missing,
                self.losses.temperature,
                self.losses.classification_over,
            )
        return values

    def _clip_loss(self, head: nn.Linear, encoded: Tensor, visible: Tensor, padding: Tensor | None) -> Tensor:
        """The loss between the mean encoder outputs of a clip's two views."""
        first, second = head(self._pooled(encoded, visible, padding)).chunk(2)
        return clip_loss(first, second, self.losses.clip_temperature)

    def _target_losses(self, pooled: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses whose targets belong to whole rows: (B, D) mean visible tokens, and the targets by name."""
        values = {}
        if self.label_heads:
            parts = []
            for number, (head, weight) in enumerate(zip(self.label_heads, self.label_weights, strict=True)):
                name = f"label{number}"
                smoothing = self.losses.label_smoothing
                parts.append(
                    weight * label_loss(head(pooled), targets[name], targets.get(f"{name}_weights"), smoothing)
                )
            values["supervised"] = torch.stack(parts).sum()
        if self.teacher_heads:
            distances = []
            for number, head in enumerate(self.teacher_heads):
                name = f"teacher{number}"
                distances.append(teacher_loss(head(pooled), targets[name], targets.get(f"{name}_weights")))
            values["teacher"] = torch.stack(distances).mean()
        return values

    @staticmethod
    def _pooled(encoded: Tensor, visible: Tensor, padding: Tensor | None) -> Tensor:
        """(B, D) mean of each row's visible tokens that are no padding."""
        if padding is not None:
            seen = (~padding.gather(1, visible))[..., None]
            encoded = encoded * seen * (seen.shape[1] / seen.sum(dim=1, keepdim=True))
        return encoded.mean(dim=1)


def unused_parts(name: ObjectiveName, losses: LossConfig) -> list[str]:
    """Parts of the network that no loss reaches."""
    if name != "mae_ast":
        return list(DECODER)
    if not losses.predicts:
        return ["encoder_mask", *DECODER]
    heads = {"reconstruction_head": losses.reconstruction, "classification_head": losses.classification}
    return ["encoder_mask", *(part for part, weight in heads.items() if not weight)]


EPS, MOMENTUM = 1e-5, 0.1
"""Epsilon and momentum of the published BatchNorm2d over one channel."""


class Normalizer(nn.Module):
    """(x - mean) / std * scale, with the corpus's statistics or, as published, with those of each batch.

    The latter keeps running statistics for later. It treats the batches of all processes as one batch.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, mode: str, statistics: Normalisation) -> None:
        """Begin with the given statistics.

        Args:
            mode: "fixed" or "batch".
            statistics: of the corpus; with "batch" the running statistics begin with them.
        """
        super().__init__()
        self.mode, self.fixed = mode, statistics
        if mode == "batch":
            self.register_buffer("mean", torch.tensor(statistics.mean))
            self.register_buffer("var", torch.tensor(max(0.0, statistics.std**2 - EPS)))  # as `statistics` has it

    @property
    def statistics(self) -> Normalisation:
        """The statistics that a checkpoint stores."""
        if self.mode == "fixed":
            return self.fixed
        std = float((self.var.double() + EPS).sqrt())
        return Normalisation(mean=float(self.mean), std=std, scale=self.fixed.scale)

    def forward(self, fbank: Tensor, frames: Tensor | None = None) -> Tensor:
        """(B, frames, mels) -> the same; ``frames`` (B,) are each row's valid frames if some are padded with zeros."""
        if self.mode == "fixed":
            return (fbank - self.fixed.mean) * (self.fixed.scale / self.fixed.std)
        if not self.training:
            return (fbank - self.mean) * (self.fixed.scale * (self.var + EPS).rsqrt())
        count = fbank.new_tensor(fbank.numel(), dtype=torch.float64)
        if frames is not None:
            count = frames.clamp(max=fbank.shape[1]).sum().double() * fbank.shape[2]
        # padding is zero and adds nothing to the sums; sums, because they can be added over processes
        sums = torch.stack([fbank.sum(dtype=torch.float64), fbank.double().square().sum(), count])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        mean, square, count = sums[0] / sums[2], sums[1] / sums[2], sums[2]
        var = square - mean.square()
        self.mean.lerp_(mean.float(), MOMENTUM)
        self.var.lerp_((var * count / (count - 1)).float(), MOMENTUM)
        return (fbank - mean.float()) * (self.fixed.scale * (var.float() + EPS).rsqrt())


class SsastHeads(nn.ModuleDict):
    """SSAST's heads by the name of their loss, for each loss with a weight: two linear layers with a ReLU between."""

    def __init__(self, embed_dim: int, patch_dim: int, losses: LossConfig) -> None:
        weights = {"reconstruction": losses.reconstruction, "classification": losses.classification}
        super().__init__({name: _head(embed_dim, patch_dim) for name, weight in weights.items() if weight})


def _head(embed_dim: int, patch_dim: int) -> nn.Sequential:
    return nn.Sequential(Linear(embed_dim, embed_dim), nn.ReLU(), Linear(embed_dim, patch_dim))


def _linear_heads(embed_dim: int, sizes: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(embed_dim, size) for size in sizes)
