"""What s3prl's heads need of an upstream's clock, which it does not check."""

import logging
from collections.abc import Mapping
from typing import Any

from maeast_upstream.sampling import SAMPLE_RATE

logger = logging.getLogger(__name__)

XVECTOR_STEPS = 16
"""Of ASV's head: its time-delay layers take 14, and a deviation over one step is NaN."""
SLOWEST_FOR_PHONES = 1280
"""Samples a step: CTC cannot write more phones than there are steps, and speech has up to 15 of them a second."""


def check_steps(task: str, config: Mapping[str, Any], rate: int) -> None:
    """Refuse a task whose head cannot work with a time step every ``rate`` samples.

    Raises:
        ValueError: says which option gives more steps.
    """
    expert = config["downstream_expert"] if isinstance(config.get("downstream_expert"), Mapping) else {}
    data = expert["datarc"] if isinstance(expert.get("datarc"), Mapping) else {}
    hop = f"a time step of this upstream is {rate} samples ({1000 * rate // SAMPLE_RATE} ms)"
    remedy = "give -g a YAML with hop_ms: 40 (patch models), or with repeat: 8, or take a frame model"
    if task == "sv_voxceleb1":
        shortest = data["vad_config"]["min_sec"] if isinstance(data.get("vad_config"), Mapping) else 0
        # s3prl hands round(samples / rate) steps to the head
        if shortest < (XVECTOR_STEPS - 0.5) * rate:
            raise ValueError(
                f"-d {task} needs {XVECTOR_STEPS} steps of each clip, and {hop}, while vad_config.min_sec lets clips "
                f"of {shortest} samples through: {remedy}"
            )
    if task == "separation_stft2" and rate > data.get("n_fft", rate):
        raise ValueError(f"-d {task} takes spectra of {data['n_fft']} samples a step apart, and {hop}: {remedy}")
    if task == "ctc" and rate > SLOWEST_FOR_PHONES:
        logger.warning(
            "-d ctc: %s, fewer steps than phones; most utterances will not count: %s",
            hop,
            remedy,
        )
