"""What this machine remembers of a model's engines: the cost of each, and how close to float32 they are."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch

from maeast_upstream.encoder import Encoder
from maeast_upstream.engines import timing
from maeast_upstream.engines.policy import Cost, Option
from maeast_upstream.fingerprint import fingerprint

MOST_SECONDS = 1e6
"""A cost above this was not measured by us."""


class Memory:
    """The measurements of a model in the user's cache folder, which may hold anything."""

    def __init__(self, encoder: Encoder, keep: Sequence[int]) -> None:
        """Look up what is known.

        Args:
            encoder: With the number of streams that it will run in; torch has the threads of one of them.
            keep: The layers that are needed, ascending.
        """
        self._encoder, self._keep = encoder, list(keep)

    @functools.cached_property
    def _costs_key(self) -> str:
        """The key of the costs, which depend on the shape of the network and not on its weights."""
        device, streams = self._encoder.device, self._encoder.runtime.streams
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return timing.key_of(self._encoder.config.model, device=name, streams=streams, layers=self._keep[-1])

    @functools.cached_property
    def _cosines_key(self) -> str:
        return timing.key_of(self._encoder.config.model, weights=fingerprint(self._encoder), layers=self._keep)

    def costs(self) -> dict[Option, Cost]:
        """What each option costs."""
        found = timing.remembered(self._costs_key)
        return {_option(name): Cost(*cost) for name, cost in found.items() if _is_cost(cost)}

    def cosines(self) -> dict[Option, float]:
        """The least cosine of each option that was compared with float32."""
        found = timing.remembered(self._cosines_key)
        return {_option(name): cosine for name, cosine in found.items() if _is_number(cosine)}

    def add_cost(self, option: Option, cost: Cost) -> None:
        """Keep what an option costs."""
        timing.remember(self._costs_key, {" ".join(option): cost})

    def add_cosine(self, option: Option, cosine: float) -> None:
        """Keep how close an option is to float32."""
        timing.remember(self._cosines_key, {" ".join(option): cosine})


def _option(name: str) -> Option:
    engine, _, precision = name.partition(" ")
    return engine, precision


def _is_cost(stored: Any) -> bool:
    if not isinstance(stored, list) or len(stored) != 2 or not all(map(_is_number, stored)):
        return False
    start, pace = stored
    return bool(0 <= start <= MOST_SECONDS and 0 < pace <= MOST_SECONDS)


def _is_number(stored: Any) -> bool:
    return isinstance(stored, float) and math.isfinite(stored)
