"""Settings of a fine-tuning; this module does not import torch, so that the command's --help is fast."""

from dataclasses import dataclass
from typing import Literal

from maeast_upstream.checks import check_numbers


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Everything that decides the result of a fine-tuning."""

    checkpoint: str | None = None
    """What to start from, as in `load_model`."""
    epochs: int = 20
    """Passes over the train split."""
    batch_clips: int = 16
    """Clips per update."""
    lr: float = 1e-3
    """Peak learning rate of the head."""
    encoder_lr: float = 1e-4
    """Peak learning rate of the encoder's last layer; 0 trains the head only."""
    layer_decay: float = 0.75
    """Each layer's learning rate is that of the layer above times this."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    mixup: float = 0.0
    """Alpha of mixup's Beta distribution; 0 for none."""
    mask_frames: int = 0
    """Longest segment that SpecAugment hides, in frames of 10 ms; 0 for none."""
    mask_mels: int = 0
    """Widest band of mel bins that SpecAugment hides; 0 for none."""
    positions: Literal["sinusoid", "none"] | None = None
    """Position embeddings of the tokens; None for the checkpoint's."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the matrix products."""
    seed: int = 0
    """Seed of the head, the order of the clips and the augmentation."""

    def __post_init__(self) -> None:
        try:
            check_numbers(self)
        except ValueError as error:  # with the name of the option
            name, _, reason = str(error).partition(" ")
            raise ValueError(f"{name.replace('_', '-')} {reason}") from error
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"fine-tuning needs precision fp32 or bf16, got {self.precision!r}")
        if self.epochs < 1 or self.batch_clips < 1:
            raise ValueError(f"epochs and batch-clips must be at least 1, got {self.epochs} and {self.batch_clips}")
        if self.lr <= 0 or self.encoder_lr < 0 or self.weight_decay < 0:
            raise ValueError(
                "lr must be above 0, encoder-lr and weight-decay not negative; "
                f"got {self.lr}, {self.encoder_lr}, {self.weight_decay}"
            )
        if not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"layer-decay must lie in (0, 1], got {self.layer_decay}")
        if min(self.mixup, self.mask_frames, self.mask_mels) < 0:
            raise ValueError(
                f"mixup, mask-frames and mask-mels must not be negative, got {self.mixup}, {self.mask_frames}, "
                f"{self.mask_mels}"
            )
