"""The MAE-AST network: patches of a log-mel spectrogram -> encoder, and the decoder that predicts masked patches.

Shapes: B clips, T time steps, M mel patches of a time step, N = T * M tokens, P = patch_frames * patch_mels values
of a token, D width, H heads. Source: Baade, Peng, Harwath, arXiv 2203.16691, sections 2.1 to 2.3, and its code.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maeast_upstream.attention import attention
from maeast_upstream.dropout import Dropout
from maeast_upstream.linear import Linear

POSITION_BASE = 10_000.0
STORED_POSITIONS = 4096
"""Rows of the sinusoid kept ready: 80 s of patch tokens; more are computed when a longer input asks for them."""
INIT_STD = 0.02
"""BERT's initialisation, in the two transformer stacks only."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the network. Defaults: the paper's 12-layer patch model."""

    patch_frames: int = 16
    """Token length along time, in fbank frames of 10 ms."""
    patch_mels: int = 16
    """Token height along frequency, in mel bins; must divide num_mel_bins."""
    num_mel_bins: int = 128
    """Mel bins of the spectrogram."""
    embed_dim: int = 768
    """Encoder width D."""
    depth: int = 12
    """Encoder layers."""
    num_heads: int = 12
    """Encoder attention heads; must divide embed_dim."""
    ffn_dim: int = 3072
    """Width inside the encoder's feed-forward networks."""
    decoder_dim: int = 768
    """Decoder width."""
    decoder_depth: int = 2
    """Decoder layers."""
    decoder_heads: int = 12
    """Decoder attention heads; must divide decoder_dim."""
    decoder_ffn_dim: int = 3072
    """Width inside the decoder's feed-forward networks."""
    decoder_attention: Literal["self", "cross"] = "self"
    """Decoder tokens attend to each other, visible and masked, as published; or masked ones to visible ones only, which
    costs less (CrossMAE)."""
    positions: Literal["sinusoid", "none"] = "sinusoid"
    """What is added to tokens to tell their place: a fixed sinusoid over the flat token index, or nothing."""
    dropout: float = 0.1
    """Dropout after attention, after the feed-forward network and before the first layer."""
    attention_dropout: float = 0.1
    """Dropout on attention weights."""
    activation_dropout: float = 0.0
    """Dropout inside the feed-forward network."""
    input_dropout: float = 0.1
    """Dropout on projected tokens, in pretraining only."""
    layerdrop: float = 0.05
    """Probability of skipping an encoder layer, in pretraining only."""
    checkpoint_activations: bool = False
    """Recompute each layer in the backward pass instead of keeping its activations: less memory, more time."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "decoder_depth" else 1
            if field.type is int and value < least:
                raise ValueError(f"{field.name} must be at least {least}, got {value}")
            if field.type is float and not 0.0 <= value < 1.0:
                raise ValueError(f"{field.name} is a probability below 1, got {value}")
        for divisor, dividend in (
            ("patch_mels", "num_mel_bins"),
            ("num_heads", "embed_dim"),
            ("decoder_heads", "decoder_dim"),
        ):
            if getattr(self, dividend) % getattr(self, divisor):
                raise ValueError(
                    f"{divisor} {getattr(self, divisor)} does not divide {dividend} {getattr(self, dividend)}"
                )
        if odd := [name for name in ("embed_dim", "decoder_dim") if getattr(self, name) % 2]:
            raise ValueError(f"{odd[0]} must be even for the sinusoid, got {getattr(self, odd[0])}")
        for name, allowed in (("positions", ("sinusoid", "none")), ("decoder_attention", ("self", "cross"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}")
        if self.decoder_attention == "cross" and self.decoder_depth == 0:
            raise ValueError("decoder_attention cross and decoder_depth 0 do not go together: drop one of them")

    @property
    def mel_patches(self) -> int:
        """M, the tokens of one time step."""
        return self.num_mel_bins // self.patch_mels

    @property
    def patch_dim(self) -> int:
        """P, the spectrogram values of one token."""
        return self.patch_frames * self.patch_mels


def _shape(
    width: int,
    heads: int,
    depth: int = 12,
    decoder_dim: int | None = None,
    decoder_heads: int | None = None,
) -> dict[str, int]:
    decoder_dim = decoder_dim or width
    return {
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "ffn_dim": 4 * width,
        "decoder_dim": decoder_dim,
        "decoder_heads": decoder_heads or heads,
        "decoder_ffn_dim": 4 * decoder_dim,
    }


PRESETS: dict[str, dict[str, int]] = {
    "tiny": _shape(192, 3, decoder_dim=128, decoder_heads=2),
    "small": _shape(384, 6),
    "base": _shape(768, 12),
    "base6": _shape(768, 12, depth=6),
    "large": _shape(1024, 16, depth=24),
}
"""Sizes by name; tiny's decoder is narrow so that its file stays under 12 MB in fp16."""
TOKENS: dict[str, dict[str, int]] = {
    "patch": {"patch_frames": 16, "patch_mels": 16},
    "frame": {"patch_frames": 2, "patch_mels": 128},
}
"""The paper's two ways to cut a spectrogram."""


def preset(size: str, tokens: str = "patch", **overrides: Any) -> ModelConfig:
    """A named size with patch or frame tokens; ``overrides`` are ModelConfig's fields."""
    if size not in PRESETS or tokens not in TOKENS:
        raise ValueError(
            f"unknown preset {size!r} with tokens {tokens!r}: sizes are {', '.join(PRESETS)}; tokens "
            f"are {', '.join(TOKENS)}"
        )
    return ModelConfig(**{**PRESETS[size], **TOKENS[tokens], **overrides})


def sinusoid(num_tokens: int, dim: int) -> Tensor:
    """(num_tokens, dim) float32 positions: sine at even, cosine at odd channels. Source: the published code."""
    index = torch.arange(num_tokens).unsqueeze(1)
    rate = torch.exp(torch.arange(0, dim, 2) * (-math.log(POSITION_BASE) / dim))
    return torch.stack([torch.sin(index * rate), torch.cos(index * rate)], dim=-1).flatten(1)


class Positions(nn.Module):
    """Adds a fixed sinusoid over the flat token index; holds no weights."""

    table: Tensor

    def __init__(self, dim: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer(
            "table",
            sinusoid(STORED_POSITIONS if kind == "sinusoid" else 0, dim),
            persistent=False,
        )

    def forward(self, x: Tensor, side_by_side: Sequence[int] | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D); ``side_by_side`` as in `MaeAst.features`: each clip counts from its own start."""
        if self.kind == "none":
            return x
        if side_by_side is None:
            return x + self._rows(x.shape[1], x.device)
        rows = self._rows(max(side_by_side), x.device)
        return x + torch.cat([rows[:tokens] for tokens in side_by_side])

    def at(self, x: Tensor, index: Tensor, num_tokens: int) -> Tensor:
        """(B, n, D) tokens that stand at the places (B, n) ``index`` of ``num_tokens`` -> (B, n, D)."""
        return x if self.kind == "none" else x + self._rows(num_tokens, x.device)[index]

    def _rows(self, tokens: int, device: torch.device) -> Tensor:
        if tokens <= len(self.table):
            return self.table[:tokens]
        return sinusoid(tokens, self.table.shape[1]).to(device)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection to queries, keys and values."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, attend: Tensor | Sequence[int] | None = None, first: int = 0) -> Tensor:
        """(B, N, D) -> (B, N - first, D): the tokens before ``first`` are looked at only.

        ``attend`` (B, 1, 1, N) is True at the keys that may be looked at; or the tokens of each clip, where clips lie
        side by side and each looks at itself only.
        """
        qkv = split_heads(self.qkv(x), 3, self.num_heads)
        if attend is None or isinstance(attend, Tensor):
            y = self._attention((qkv[0][:, :, first:], *qkv[1:]), attend)
        else:
            clips = zip(*(torch.split(part, list(attend), dim=2) for part in qkv), strict=True)
            y = torch.cat([self._attention(clip, None) for clip in clips], dim=1)
        out: Tensor = self.out(y.flatten(2))
        return out

    def _attention(self, qkv: Sequence[Tensor], attend: Tensor | None) -> Tensor:
        """Three (B, H, n, D / H) -> (B, n, H, D / H)."""
        q, k, v = qkv
        return attention(q, k, v, attend, self.dropout if self.training else 0.0).transpose(1, 2)


class CrossAttention(nn.Module):
    """Multi-head attention from tokens to others, the memory. Source: CrossMAE, arXiv 2401.14391."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.q = Linear(dim, dim)
        self.kv = Linear(dim, 2 * dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, attend: Tensor | None, memory: Tensor) -> Tensor:
        """(B, n, D), (B, K, D) memory -> (B, n, D); ``attend`` (B, 1, 1, K) is True where it may be looked at."""
        (q,) = split_heads(self.q(x), 1, self.num_heads)
        k, v = split_heads(self.kv(memory), 2, self.num_heads)
        y = attention(q, k, v, attend, self.dropout if self.training else 0.0)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


def split_heads(x: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """(B, N, parts * D) -> as many (B, H, N, D / H) views."""
    B, N, width = x.shape
    return x.view(B, N, parts, num_heads, width // parts // num_heads).permute(2, 0, 3, 1, 4).unbind(0)


class Block(nn.Module):
    """A post-norm transformer layer: x = LN(x + attention(x)); x = LN(x + ffn(x)), with exact GELU."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, config: ModelConfig, cross: bool = False) -> None:
        super().__init__()
        self.attention = (CrossAttention if cross else Attention)(dim, num_heads, config.attention_dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.fc1 = Linear(dim, ffn_dim)
        self.fc2 = Linear(ffn_dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(config.dropout)
        self.activation_dropout = Dropout(config.activation_dropout)

    def forward(
        self,
        x: Tensor,
        attend: Tensor | Sequence[int] | None = None,
        memory: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        """(B, N, D) -> (B, N - first, D); ``attend``, ``first``, ``memory`` as in `Attention` and `CrossAttention`."""
        y = self.attention(x, attend, first) if memory is None else self.attention(x[:, first:], attend, memory)
        x = self.attention_norm(x[:, first:] + self.dropout(y))
        y = self.fc2(self.activation_dropout(F.gelu(self.fc1(x))))
        out: Tensor = self.ffn_norm(x + self.dropout(y))
        return out


class Stack(nn.Module):
    """A layer norm, dropout, then `depth` post-norm blocks: the shape of both encoder and decoder."""

    def __init__(
        self, dim: int, num_heads: int, ffn_dim: int, depth: int, config: ModelConfig, cross: bool = False
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(dim, num_heads, ffn_dim, config, cross) for _ in range(depth))
        self.checkpoint_activations = config.checkpoint_activations
        self.apply(_init_linear)

    def forward(
        self,
        x: Tensor,
        layerdrop: float = 0.0,
        padding: Tensor | None = None,
        memory: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        """(B, N, D) -> (B, N - first, D), the last layer's output of the tokens from ``first`` on.

        While training each block is skipped with probability ``layerdrop``. ``padding`` (B, N) is True at tokens that
        the others must not attend to; with cross-attention, of ``memory``.
        """
        attend = None if padding is None else ~padding[:, None, None, :]
        x = self.dropout(self.norm(x))
        wanted = x.shape[1] - first
        for number, block in enumerate(self.blocks, start=1):
            if not (self.training and layerdrop and torch.rand(()).item() < layerdrop):
                x = self._run(block, x, attend, memory, first if number == len(self.blocks) else 0)
        return x[:, x.shape[1] - wanted :]

    def layers(
        self, x: Tensor, padding: Tensor | None, keep: Sequence[int], side_by_side: Sequence[int] | None = None
    ) -> list[Tensor]:
        """The outputs of the layers in ``keep`` (counted from 1, ascending); nothing above the last is computed."""
        attend = side_by_side if padding is None else ~padding[:, None, None, :]
        x = self.dropout(self.norm(x))
        kept = []
        for number, block in enumerate(self.blocks[: keep[-1]], start=1):
            x = self._run(block, x, attend)
            if number in keep:
                kept.append(x)
        return kept

    def _run(
        self,
        block: nn.Module,
        x: Tensor,
        attend: Tensor | Sequence[int] | None,
        memory: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        if self.checkpoint_activations and torch.is_grad_enabled():
            result: Tensor = checkpoint(block, x, attend, memory, first, use_reentrant=False)
        else:
            result = block(x, attend, memory, first)
        return result


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(module.bias)


@dataclass(frozen=True)
class Prediction:
    """What a pretraining pass gives for the masked tokens, and what they were."""

    reconstruction: Tensor
    """(B, masked, P) predicted patches."""
    classification: Tensor
    """(B, masked, P) vectors that are matched with the true patches by dot product."""
    targets: Tensor
    """(B, masked, P) the true patches, normalised."""
    encoded: Tensor
    """(B, tokens, D) the encoder's output: of the visible tokens, or of all in a full-length pass."""


class MaeAst(nn.Module):
    """The encoder-decoder network of MAE-AST. Its input is the normalised log-mel spectrogram cut into patches."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, decoder_dim = config.embed_dim, config.decoder_dim
        self.patch_embed = Linear(config.patch_dim, dim)
        self.encoder_mask = nn.Parameter(torch.rand(dim))
        self.encoder_positions = Positions(dim, config.positions)
        self.encoder = Stack(dim, config.num_heads, config.ffn_dim, config.depth, config)
        self.decoder_embed = nn.Linear(dim, decoder_dim) if decoder_dim != dim else nn.Identity()
        self.decoder_mask = nn.Parameter(torch.rand(decoder_dim))
        same = decoder_dim == dim  # then one table serves both
        self.decoder_positions = self.encoder_positions if same else Positions(decoder_dim, config.positions)
        self.decoder = Stack(
            decoder_dim,
            config.decoder_heads,
            config.decoder_ffn_dim,
            config.decoder_depth,
            config,
            config.decoder_attention == "cross",
        )
        self.reconstruction_head = nn.Linear(decoder_dim, config.patch_dim)
        self.classification_head = nn.Linear(decoder_dim, config.patch_dim)
        self.input_dropout = Dropout(config.input_dropout)

    def features(
        self,
        patches: Tensor,
        padding: Tensor | None = None,
        layers: Sequence[int] | None = None,
        *,
        side_by_side: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Encoder layers' outputs on all tokens: what a frozen or fine-tuned upstream uses.

        Args:
            patches: (B, N, P) normalised patches, see `patchify`.
            padding: (B, N) bool, True at tokens past a clip's end; no row may be all padding.
            layers: which layers, counted from 1; None means all.
            side_by_side: in place of padding, with B = 1: the tokens of each clip, one clip behind the other in the
                row. They share the matrix products and nothing else.

        Returns:
            One (B, N, D) tensor for each layer asked for, in ascending order. Layerdrop never applies.
        """
        keep = sorted(set(layers)) if layers is not None else range(1, self.config.depth + 1)
        tokens = self.encoder_positions(self.patch_embed(patches), side_by_side)
        return self.encoder.layers(tokens, padding, keep, side_by_side)

    def predict(
        self,
        patches: Tensor,
        visible: Tensor,
        masked: Tensor,
        padding: Tensor | None = None,
    ) -> Prediction:
        """The pretraining pass: the encoder sees the visible tokens only, the decoder fills in the rest.

        Args:
            patches: (B, N, P) normalised patches of clips of equal length.
            visible: (B, K) int64 indices of the tokens that the encoder sees.
            masked: (B, N - K) int64 indices of all others.
            padding: (B, N) bool, True at tokens past a clip's end, which no other token attends to.
        """
        encoded = self.encode_visible(patches, visible, padding)
        decoded = self.decode(encoded, visible, masked, patches.shape[1], padding)
        return Prediction(
            self.reconstruction_head(decoded),
            self.classification_head(decoded),
            take(patches, masked),
            encoded,
        )

    def encode_visible(self, patches: Tensor, visible: Tensor, padding: Tensor | None = None) -> Tensor:
        """The first half of `predict`: (B, K, D), the encoder's output of the visible tokens alone."""
        tokens = self.input_dropout(self.patch_embed(take(patches, visible)))
        tokens = self.encoder_positions.at(tokens, visible, patches.shape[1])
        unseen = None if padding is None else padding.gather(1, visible)
        encoded: Tensor = self.encoder(tokens, self.config.layerdrop, unseen)
        return encoded

    def decode(
        self,
        encoded: Tensor,
        visible: Tensor,
        masked: Tensor,
        num_tokens: int,
        padding: Tensor | None = None,
    ) -> Tensor:
        """The second half of `predict`: what the decoder makes of the masked tokens, of which it may get only some.

        Args:
            encoded: (B, K, D), see `encode_visible`.
            visible: (B, K) int64 indices of these tokens.
            masked: (B, n) int64 indices of the tokens to be predicted; the decoder gets no others.
            num_tokens: N, of the whole clips.
            padding: (B, N) bool, True at tokens past a clip's end.

        Returns:
            (B, n, decoder_dim).
        """
        seen = self.decoder_embed(encoded)
        blank = self.decoder_mask.to(seen.dtype).expand(*masked.shape, -1)
        decoded: Tensor
        if self.config.decoder_attention == "cross":
            unseen = None if padding is None else padding.gather(1, visible)
            decoded = self.decoder(self.decoder_positions.at(blank, masked, num_tokens), padding=unseen, memory=seen)
        else:
            index = torch.cat([visible, masked], dim=1)
            tokens = self.decoder_positions.at(torch.cat([seen, blank], dim=1), index, num_tokens)
            absent = None if padding is None else padding.gather(1, index)
            decoded = self.decoder(tokens, padding=absent, first=visible.shape[1])
        return decoded

    def encode_with_mask_tokens(self, patches: Tensor, masked: Tensor, padding: Tensor | None = None) -> Tensor:
        """SSAST's pass: all tokens go through the encoder, one learned vector in place of each masked one.

        Args:
            patches: (B, N, P) normalised patches of clips of equal length.
            masked: (B, n) int64 indices of the masked tokens.
            padding: (B, N) bool, True at tokens past a clip's end, which no other token attends to.

        Returns:
            (B, N, D), the last layer's output. Source: Gong et al., arXiv 2110.09784, section 2.2.
        """
        tokens = self.input_dropout(self.patch_embed(patches))
        index = masked[..., None].expand(-1, -1, tokens.shape[-1])
        tokens = tokens.scatter(1, index, self.encoder_mask.to(tokens.dtype).expand_as(index))
        encoded: Tensor = self.encoder(self.encoder_positions(tokens), self.config.layerdrop, padding)
        return encoded


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """(B, N, C) tokens, (B, n) int64 indices -> (B, n, C)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def patchify(spectrogram: Tensor, config: ModelConfig) -> Tensor:
    """Cut a spectrogram into tokens: time-major order, and inside a token time-major too.

    Args:
        spectrogram: (B, frames, num_mel_bins); a last partial patch is dropped.
        config: gives the patch shape.

    Returns:
        (B, T * M, patch_frames * patch_mels).
    """
    B, frames, _ = spectrogram.shape
    T, M, kt, kf = (
        frames // config.patch_frames,
        config.mel_patches,
        config.patch_frames,
        config.patch_mels,
    )
    cut = spectrogram[:, : T * kt].reshape(B, T, kt, M, kf)
    return cut.transpose(2, 3).reshape(B, T * M, kt * kf)


def unpatchify(patches: Tensor, config: ModelConfig) -> Tensor:
    """The inverse of `patchify`: (B, T * M, P) -> (B, T * patch_frames, num_mel_bins)."""
    B, N, _ = patches.shape
    T, M, kt, kf = (
        N // config.mel_patches,
        config.mel_patches,
        config.patch_frames,
        config.patch_mels,
    )
    return patches.reshape(B, T, M, kt, kf).transpose(2, 3).reshape(B, T * kt, M * kf)
