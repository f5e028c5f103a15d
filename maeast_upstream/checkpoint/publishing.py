"""What a checkpoint needs to be published: the card of an encoder, and whether the hub has an edited one."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.checkpoint.card import Card, is_ours, marked, rewrite_card, write_card
from maeast_upstream.checkpoint.folder import Loaded
from maeast_upstream.checkpoint.identity import fingerprint_of, identity_of
from maeast_upstream.checkpoint.layout import CARD_NAME, CARD_NAMES, encoder_folder, encoder_size
from maeast_upstream.checkpoint.places import BUNDLED
from maeast_upstream.checkpoint.projection import Projection
from maeast_upstream.config import EncoderConfig
from maeast_upstream.model import MaeAst
from maeast_upstream.storage.text import read_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)


def card_of(
    network: MaeAst, config: EncoderConfig, name: str, card: Card | None = None, projection: Projection | None = None
) -> str:
    """Return the text of an encoder's model card: that of the checkpoint in the package for its weights and readout.

    Args:
        network: Holds the weights.
        config: The encoder's settings.
        name: See `maeast_upstream.checkpoint.card.write_card`.
        card: What the publisher adds; with it also the weights of the package get a card of their own.
        projection: What is stored beside the weights for shorter vectors.
    """
    parameters = encoder_size({key: value.numel() for key, value in network.state_dict().items()})
    if card is None and _is_bundled(network, config):
        text = read_text(BUNDLED / CARD_NAMES[-1])
        return marked(rewrite_card(text, config, parameters, name, projection))
    return write_card(config, parameters, name, card, projection)


def _is_bundled(network: MaeAst, config: EncoderConfig) -> bool:
    bundled = identity_of(BUNDLED)
    if bundled is None or (bundled.config.readout, bundled.config.provenance) != (config.readout, config.provenance):
        return False
    tensors = ((key, value.detach().cpu().float().numpy()) for key, value in sorted(network.state_dict().items()))
    return fingerprint_of(config, tensors) == bundled.fingerprint


def card_for_copy(source: Path, loaded: Loaded, name: str, projection: Projection | None) -> str | None:
    """Return the model card of a checkpoint for a copy of it, or for what it is with another projection.

    Args:
        source: Where the checkpoint was read.
        loaded: What was read.
        name: As in `card_of`.
        projection: As in `card_of`.

    Returns:
        The text; None if there is no card that can be read. A card that somebody has edited is not changed.
    """
    folder = encoder_folder(source) if source.is_dir() else source
    path = next((folder / each for each in CARD_NAMES if folder.is_dir() and (folder / each).is_file()), None)
    if path is None:
        return None
    try:
        text = read_text(path)
    except (OSError, ValueError):
        return None
    if not (folder == BUNDLED or is_ours(path)):
        return text
    parameters = encoder_size({key: value.numel() for key, value in loaded.state.items()})
    try:
        return marked(rewrite_card(text, loaded.config, parameters, name, projection))
    except (AttributeError, KeyError, TypeError, ValueError):  # somebody has computed the mark of another text
        return text


def edited_on_hub(api: "HfApi", repo_id: str, revision: str | None = None) -> bool:
    """Whether a repository of the hub has a model card that somebody has edited or written; a message says so."""
    if not api.file_exists(repo_id, CARD_NAME, revision=revision):
        return False
    if is_ours(Path(api.hf_hub_download(repo_id, CARD_NAME, revision=revision))):
        return False
    logger.warning("%s: its %s was edited, so it stays as it is; delete it there for a new one", repo_id, CARD_NAME)
    return True
