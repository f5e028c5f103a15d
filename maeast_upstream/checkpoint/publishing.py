"""What a checkpoint needs to be published: the card of an encoder, and whether the hub has an edited one."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.checkpoint.card import Card, bundled_card, is_ours, write_card
from maeast_upstream.checkpoint.identity import fingerprint_of, identity_of
from maeast_upstream.checkpoint.layout import CARD_NAME, encoder_size
from maeast_upstream.checkpoint.places import BUNDLED
from maeast_upstream.config import EncoderConfig
from maeast_upstream.model import MaeAst

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)


def card_of(network: MaeAst, config: EncoderConfig, name: str, card: Card | None = None) -> str:
    """Return the text of an encoder's model card: that of the checkpoint in the package for its weights and readout.

    Args:
        network: Holds the weights.
        config: The encoder's settings.
        name: See `maeast_upstream.checkpoint.card.write_card`.
        card: What the publisher adds; with it also the weights of the package get a card of their own.
    """
    parameters = encoder_size({key: value.numel() for key, value in network.state_dict().items()})
    if card is None and _is_bundled(network, config):
        return bundled_card(config, parameters, name)
    return write_card(config, parameters, name, card)


def _is_bundled(network: MaeAst, config: EncoderConfig) -> bool:
    bundled = identity_of(BUNDLED)
    if bundled is None or (bundled.config.readout, bundled.config.provenance) != (config.readout, config.provenance):
        return False
    tensors = ((key, value.detach().cpu().float().numpy()) for key, value in sorted(network.state_dict().items()))
    return fingerprint_of(config, tensors) == bundled.fingerprint


def edited_on_hub(api: "HfApi", repo_id: str, revision: str | None = None) -> bool:
    """Whether a repository of the hub has a model card that somebody has edited or written; a message says so."""
    if not api.file_exists(repo_id, CARD_NAME, revision=revision):
        return False
    if is_ours(Path(api.hf_hub_download(repo_id, CARD_NAME, revision=revision))):
        return False
    logger.warning("%s: its %s was edited, so it stays as it is; delete it there for a new one", repo_id, CARD_NAME)
    return True
