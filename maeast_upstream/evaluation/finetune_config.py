"""Settings of a fine-tuning; this module does not import torch, so that the command's --help is fast."""

from dataclasses import dataclass
from typing import Literal

from maeast_upstream.checks import check_numbers

ENCODER_RATE, ADAPTER_RATE = 1e-4, 1e-3
"""Default of ``encoder_lr``, and with ``lora``: adapters begin at 0."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Everything that decides the result of a fine-tuning."""

    checkpoint: str | None = None
    """What to start from, as in `load_model`."""
    layer: str | None = None
    """Layer of the readout, see `Readout`; None for the checkpoint's."""
    mel: str | None = None
    """How the readout combines mel patches; None for the checkpoint's."""
    pool: str | None = None
    """How the readout pools over time; None for the checkpoint's."""
    hop_ms: str | None = None
    """Distance of the readout's time steps in ms, or native; None for the checkpoint's."""
    dims: str | None = None
    """How many numbers of the checkpoint's projection the readout has, or full; None for the checkpoint's."""
    whiten: bool | None = None
    """Whether the readout whitens; None for the checkpoint's."""
    epochs: int = 5
    """Most passes over the train split; 0 leaves the probe's classifier of the frozen encoder."""
    patience: int = 3
    """Epochs without a better valid accuracy after which training ends, as it does where all valid clips are right; 0
    for never."""
    batch_clips: int = 16
    """Clips per update."""
    folds: int = 4
    """Parts of train; the clips of each are classified by a head that is fitted on the others, and the probe is fitted
    again after each epoch; 0 for one head that is trained with the encoder."""
    lr: float = 1e-5
    """Peak learning rate of the head, where it is trained."""
    encoder_lr: float | None = None
    """Peak learning rate of the encoder's last layer; 0 trains the head only; None for `ENCODER_RATE`, with ``lora``
    for `ADAPTER_RATE`."""
    layer_decay: float = 0.75
    """Each layer's learning rate is that of the layer above times this."""
    weight_decay: float = 0.01
    """Weight decay of AdamW on the encoder; the head has the penalty of the probe."""
    freeze: int = 0
    """So many of the first layers keep their weights, and with them the patch projection."""
    lora: int = 0
    """Rank of the adapters that are trained in place of the encoder's weights; 0 for none."""
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
    """Seed of the adapters, the order of the clips and the augmentation."""

    def __post_init__(self) -> None:
        try:
            check_numbers(self)
        except ValueError as error:  # with the name of the option
            name, _, reason = str(error).partition(" ")
            raise ValueError(f"{name.replace('_', '-')} {reason}") from error
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"fine-tuning needs precision fp32 or bf16, got {self.precision!r}")
        if self.folds == 1:
            raise ValueError("folds must be 0, or at least 2, got 1")
        if self.batch_clips < 1:
            raise ValueError(f"batch-clips must be at least 1, got {self.batch_clips}")
        if self.lr <= 0 or self.encoder_rate < 0 or self.weight_decay < 0:
            raise ValueError(
                "lr must be above 0, encoder-lr and weight-decay not negative; "
                f"got {self.lr}, {self.encoder_rate}, {self.weight_decay}"
            )
        if not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"layer-decay must lie in (0, 1], got {self.layer_decay}")
        for name in ("epochs", "patience", "folds", "freeze", "lora", "mixup", "mask_frames", "mask_mels"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name.replace('_', '-')} must not be negative, got {getattr(self, name)}")

    @property
    def encoder_rate(self) -> float:
        """The peak learning rate of the encoder's last layer, or of its adapters."""
        if self.encoder_lr is not None:
            return self.encoder_lr
        return ADAPTER_RATE if self.lora else ENCODER_RATE
