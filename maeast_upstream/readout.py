"""From an encoder layer's tokens to embeddings: the mel axis, the layers, the pooling over time."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from maeast_upstream.checks import check_numbers, quote

if TYPE_CHECKING:  # the commands' options need the names below, and their --help should not import torch
    from torch import Tensor

Mel = Literal["concat", "mean"]
Pool = Literal["mean", "mean_max", "mean_std"]
MAX_DIMS = 512
"""The most numbers that a checkpoint's projection gives."""


@dataclass(frozen=True, kw_only=True)
class Readout:
    """How a clip's features become one vector. It is stored in a checkpoint's config.json and can be changed there."""

    layer: int | str = "last"
    """A layer, counted from 1; "last"; "mean" of all layers; or "all" layers concatenated."""
    mel: Mel = "concat"
    """The M mel patches of a time step: concatenated, or averaged."""
    pool: Pool = "mean"
    """Statistics over time: mean; mean and maximum; mean and standard deviation."""
    hop_ms: float | None = None
    """Distance of time steps: None for the model's own; 40 for patch models."""
    dims: int | None = None
    """Length of the vector: so many principal components of the projection that the checkpoint stores for this readout;
    None for all numbers. Time steps are never projected."""
    whiten: bool = False
    """Whether the pooled statistics are whitened, by what the checkpoint stores for this readout, see
    `maeast_upstream.checkpoint.whitening`. Time steps never are."""

    def __post_init__(self) -> None:
        # to Python True is the number 1
        if type(self.layer) is not int and self.layer not in ("last", "mean", "all"):
            raise ValueError(f"layer must be a number from 1, last, mean or all, got {quote(self.layer)}")
        if isinstance(self.layer, int) and self.layer < 1:
            raise ValueError(f"layers are counted from 1, got layer {quote(self.layer)}")
        check_numbers(self, dims=(1, MAX_DIMS))
        if type(self.whiten) is not bool:
            raise ValueError(f"whiten must be true or false, got {quote(self.whiten)}")
        if self.mel not in ("concat", "mean"):
            raise ValueError(f"mel must be concat or mean, got {quote(self.mel)}")
        if self.pool not in ("mean", "mean_max", "mean_std"):
            raise ValueError(f"pool must be mean, mean_max or mean_std, got {quote(self.pool)}")

    def layers(self, depth: int) -> list[int]:
        """The layers that this readout needs of a model with ``depth`` layers."""
        if isinstance(self.layer, int):
            return [self.layer]
        return [depth] if self.layer == "last" else list(range(1, depth + 1))

    @property
    def full(self) -> "Readout":
        """The pooled statistics of this readout themselves: not whitened, without a projection."""
        return replace(self, dims=None, whiten=False)

    def with_projection_of(self, default: "Readout") -> "Readout":
        """Return the default if this is its readout, otherwise this one in full: a projection belongs to one readout.

        Args:
            default: The checkpoint's own.
        """
        return default if self.full == default.full else self.full

    @property
    def projected(self) -> bool:
        """Whether it needs what the checkpoint stores for it: a whitening, or a projection to fewer numbers."""
        return self.whiten or self.dims is not None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, without ``dims`` and ``whiten`` if unused, which earlier versions do not know."""
        unused = {"dims": None, "whiten": False}
        return {name: value for name, value in asdict(self).items() if name not in unused or value != unused[name]}


def describe(readout: Readout) -> str:
    """Describe a readout in words."""
    hop = "native" if readout.hop_ms is None else f"{readout.hop_ms:g} ms"
    dims = "" if readout.dims is None else f", dims {readout.dims}"
    white = ", whitened" if readout.whiten else ""
    return f"layer {readout.layer}, mel {readout.mel}, pool {readout.pool}, hop {hop}{white}{dims}"


def fold_mel(tokens: "Tensor", mel_patches: int, mel: Mel) -> "Tensor":
    """(B, T * M, D) tokens -> time steps: (B, T, M * D) concatenated, or (B, T, D) averaged."""
    B, N, D = tokens.shape
    steps = tokens.reshape(B, N // mel_patches, mel_patches, D)
    return steps.flatten(2) if mel == "concat" else steps.mean(dim=2)


def combine_layers(hidden_states: list["Tensor"], layer: int | str) -> "Tensor":
    """The kept layers' (B, T, C) tensors -> one (B, T, C), or (B, T, C * layers) for "all"."""
    import torch

    if layer == "all":
        return torch.cat(hidden_states, dim=-1)
    if layer == "mean":
        return torch.stack(hidden_states).mean(dim=0)
    return hidden_states[-1]


def read_layers(tokens: Mapping[int, "Tensor"], readout: Readout, depth: int, mel_patches: int) -> "Tensor":
    """The time steps of a readout.

    Args:
        tokens: (B, T * M, D) by number of layer, for all layers that the readout needs.
        readout: which layers and mel axis. Nothing is pooled.
        depth: the number of layers of the model.
        mel_patches: M.

    Returns:
        (B, T, C) float32.
    """
    layers = [fold_mel(tokens[layer], mel_patches, readout.mel).float() for layer in readout.layers(depth)]
    return combine_layers(layers, readout.layer)


def pool_time(steps: "Tensor", lengths: "Tensor", pool: Pool) -> "Tensor":
    """Pool each clip over its own time steps.

    Args:
        steps: (B, T, C); values past a clip's length are ignored.
        lengths: (B,) valid time steps, at least 1 each.
        pool: the statistics; the standard deviation is the population's, 0 for one step.

    Returns:
        (B, C), or (B, 2 * C) for two statistics, in the order of their name.
    """
    import torch

    past = (torch.arange(steps.shape[1], device=steps.device) >= lengths[:, None])[..., None]
    count = lengths[:, None].to(steps.dtype)
    mean = steps.masked_fill(past, 0.0).sum(dim=1) / count
    if pool == "mean":
        return mean
    if pool == "mean_max":
        return torch.cat([mean, steps.masked_fill(past, -torch.inf).amax(dim=1)], dim=1)
    deviation = (steps - mean[:, None]).masked_fill(past, 0.0)
    return torch.cat([mean, (deviation.square().sum(dim=1) / count).sqrt()], dim=1)


class TimeStatistics(NamedTuple):
    """What pooling needs of some time steps of a clip, so that they need not be kept until all have come.

    Sums are in float64: pooled vectors are within 1e-6 of those of `pool_time`, whose float32 sums round more.
    """

    steps: int
    mean: "Tensor"
    """(C,) float64."""
    squares: "Tensor"
    """(C,) float64, sum of the squared distances from the mean."""
    maximum: "Tensor"
    """(C,) float32."""

    @classmethod
    def of(cls, steps: "Tensor") -> "TimeStatistics":
        """Summarize (n, C) float32 time steps, n at least 1."""
        wide = steps.double()
        mean = wide.mean(dim=0)
        return cls(len(steps), mean, (wide - mean).square().sum(dim=0), steps.amax(dim=0))

    def merged(self, other: "TimeStatistics") -> "TimeStatistics":
        """Return the statistics of both: Chan, Golub and LeVeque, Updating formulae ... for computing variances, 1979.

        Args:
            other: Of other time steps of the clip.
        """
        steps = self.steps + other.steps
        distance = other.mean - self.mean
        mean = self.mean + distance * (other.steps / steps)
        squares = self.squares + other.squares + distance.square() * (self.steps * other.steps / steps)
        return TimeStatistics(steps, mean, squares, self.maximum.maximum(other.maximum))

    def pooled(self, pool: Pool) -> "Tensor":
        """Return what `pool_time` gives for all of the time steps: (C,), or (2 * C,) for two statistics, float32."""
        import torch

        if pool == "mean":
            return self.mean.float()
        second = self.maximum if pool == "mean_max" else (self.squares / self.steps).sqrt().float()
        return torch.cat([self.mean.float(), second])


def checked_readout(readout: Readout | None, default: Readout) -> Readout:
    """Return a readout, or the default for None.

    Raises:
        ValueError: It is something else, such as the name of a layer.
    """
    if readout is not None and not isinstance(readout, Readout):
        raise ValueError(f"readout must be a Readout, such as Readout(layer='last'), or None, got {quote(readout)}")
    return readout or default
