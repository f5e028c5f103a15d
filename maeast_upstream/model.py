"""The MAE-AST network: patches of a log-mel spectrogram -> encoder, and the decoder that predicts masked patches.

Shapes: B clips, T time steps, M mel patches of a time step, N = T * M tokens, P = patch_frames * patch_mels values
of a token, D width, H heads. Source: Baade, Peng, Harwath, arXiv 2203.16691, sections 2.1 to 2.3, and its code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maeast_upstream.config import PRESETS as PRESETS
from maeast_upstream.config import TOKENS as TOKENS
from maeast_upstream.config import ModelConfig as ModelConfig
from maeast_upstream.config import preset as preset
from maeast_upstream.modules.cpu.dropout import Dropout
from maeast_upstream.modules.cpu.linear import Linear
from maeast_upstream.modules.packing import PackedRow
from maeast_upstream.modules.positions import Positions
from maeast_upstream.modules.transformer import DropoutRates, TransformerStack


@dataclass(frozen=True)
class Prediction:
    """The predictions of a pretraining pass for the masked tokens, and the true patches."""

    reconstruction: Tensor
    """(B, masked, P) predicted patches."""
    classification: Tensor
    """(B, masked, P) vectors whose dot products with the true patches are the logits of the classification loss."""
    targets: Tensor
    """(B, masked, P) the true patches, normalized."""
    encoded: Tensor
    """(B, tokens, D) the encoder's output: of the visible tokens, or of all tokens in SSAST's pass."""


class MaeAst(nn.Module):
    """The encoder-decoder network of MAE-AST. Its input is the normalized log-mel spectrogram cut into patches."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, decoder_dim = config.embed_dim, config.decoder_dim
        rates = DropoutRates(config.dropout, config.attention_dropout, config.activation_dropout)
        recompute = config.checkpoint_activations
        self.patch_embed = Linear(config.patch_dim, dim)
        self.encoder_mask = nn.Parameter(torch.rand(dim))
        self.encoder_positions = Positions(dim, config.positions)
        self.encoder = TransformerStack(
            dim, config.num_heads, config.ffn_dim, config.depth, rates, checkpoint_activations=recompute
        )
        self.decoder_embed = nn.Linear(dim, decoder_dim) if decoder_dim != dim else nn.Identity()
        self.decoder_mask = nn.Parameter(torch.rand(decoder_dim))
        same_width = decoder_dim == dim  # then both use one table
        self.decoder_positions = self.encoder_positions if same_width else Positions(decoder_dim, config.positions)
        self.decoder = TransformerStack(
            decoder_dim,
            config.decoder_heads,
            config.decoder_ffn_dim,
            config.decoder_depth,
            rates,
            cross=config.decoder_attention == "cross",
            checkpoint_activations=recompute,
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
        packed: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Encoder layers' outputs on all tokens: what a frozen or fine-tuned upstream uses.

        Args:
            patches: (B, N, P) normalized patches, see `patchify`.
            padding: (B, N) bool, True at tokens past a clip's end; no row may be all padding.
            layers: which layers, counted from 1; None means all.
            packed: in place of padding, with B = 1: the number of tokens of each clip, where the row holds several
                clips one behind the other. They share the matrix products and nothing else.

        Returns:
            One (B, N, D) tensor for each of the layers, in ascending order. Layerdrop never applies.
        """
        keep = sorted(set(layers)) if layers is not None else range(1, self.config.depth + 1)
        row = None if packed is None else PackedRow(packed, patches.device)
        tokens = self.encoder_positions(self.patch_embed(patches), row)
        return self.encoder.layers(tokens, padding, keep, row)

    def predict(
        self,
        patches: Tensor,
        visible: Tensor,
        masked: Tensor,
        padding: Tensor | None = None,
    ) -> Prediction:
        """The pretraining pass: the encoder sees the visible tokens only, the decoder predicts the masked ones.

        Args:
            patches: (B, N, P) normalized patches of clips of equal length.
            visible: (B, K) int64 indices of the tokens that the encoder sees.
            masked: (B, N - K) int64 indices of all other tokens.
            padding: (B, N) bool, True at tokens past a clip's end, which no other token attends to.
        """
        encoded = self.encode_visible(patches, visible, padding)
        decoded = self.decode(encoded, visible, masked, patches.shape[1], padding)
        return Prediction(
            self.reconstruction_head(decoded),
            self.classification_head(decoded),
            gather_tokens(patches, masked),
            encoded,
        )

    def encode_visible(self, patches: Tensor, visible: Tensor, padding: Tensor | None = None) -> Tensor:
        """The first half of `predict`: the encoder's output of the visible tokens, (B, K, D)."""
        tokens = self.input_dropout(self.patch_embed(gather_tokens(patches, visible)))
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
        """The second half of `predict`: the decoder's output of the masked tokens, or of some of them.

        Args:
            encoded: (B, K, D), see `encode_visible`.
            visible: (B, K) int64 indices of these tokens.
            masked: (B, n) int64 indices of the tokens to predict; the decoder gets no other masked tokens.
            num_tokens: N, the tokens of a whole clip.
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
            decoded = self.decoder(tokens, padding=absent, num_context=visible.shape[1])
        return decoded

    def encode_with_mask_tokens(self, patches: Tensor, masked: Tensor, padding: Tensor | None = None) -> Tensor:
        """SSAST's pass: the encoder sees all tokens, with one learned vector in place of each masked token.

        Args:
            patches: (B, N, P) normalized patches of clips of equal length.
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


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """(B, N, C) tokens, (B, n) int64 indices -> (B, n, C) the tokens at these indices."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def patchify(spectrogram: Tensor, config: ModelConfig) -> Tensor:
    """Cut a spectrogram into tokens, time-major; the values inside a token are time-major, too.

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
