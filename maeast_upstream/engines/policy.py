"""Weighs engines and precisions for a job: what it costs to start and measure one against what it can save.

This is arithmetic on seconds, without torch; `trial` measures them. An `Option` is an engine and a precision. The
baseline is the option that a job takes where nothing else pays: torch where it offers the precision.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from maeast_upstream.config import ModelConfig

Option = tuple[str, str]
"""An engine and a precision."""

FRAMES_PER_SECOND = 100
ENDLESS_SECONDS = 1e9
"""Audio of a job whose length is unknown: any start pays."""
MIN_SPEEDUP = 1.1
"""An option replaces one that is more exact only if it is so many times as fast, so that noise does not decide."""
TRIAL_SHARE = 1 / 8
"""Starting and measuring an option may cost this share of what it can save at best: about a twentieth of a job in
float32, should torch turn out to be the fastest."""
MEASURING_SECONDS = 1.0
"""About the time for which engines are measured."""
STARTS = {"torch": (0.0, 0.0), "openvino": (1.4, 18.0), "onnx": (0.8, 50.0)}
"""Seconds that an engine takes to start, and how many more for each 1e9 weights, until this machine's are known.
Measured on an AMD EPYC (family 25, model 17) with the bundled checkpoint and the base model."""
ENGINE_GAIN = {"torch": 1.0, "openvino": 1.6, "onnx": 1.4}
"""How many times as fast as torch an engine may be in the same precision."""
NATIVE = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "asimdhp"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp"),
}
"""The names that Linux gives to a processor's instructions for products in a precision, of x86 and ARM."""
NATIVE_GAIN = {"bf16": 2.0, "fp16": 2.0, "int8": 3.5}
"""How many times as fast as float32 a precision may be on a processor with such instructions."""
OTHER_GAIN = {"fp32": 1.0, "bf16": 0.5, "fp16": 0.5, "int8": 2.0}
"""The same on other processors: 16 bits are emulated there."""
GPU_GAIN = 8.0
"""How many times as fast as float32 16 bits may be on a GPU."""
EXACTNESS = ("fp32", "fp16", "bf16", "int8")
"""Precisions, the most exact first."""


class Cost(NamedTuple):
    """What an option takes on this machine, in seconds of an idle machine."""

    start: float
    """From importing its packages to a compiled and checked model; 0 for torch."""
    pace: float
    """For a second of audio."""


def highest_gain(option: Option, device: str, flags: Collection[str]) -> float:
    """How many times as fast as torch in float32 an option may be at best.

    Args:
        option: The engine and the precision.
        device: The type of the device: cpu, cuda, ...
        flags: The processor's instruction sets as Linux names them.
    """
    engine, precision = option
    if device != "cpu":
        return 1.0 if precision == "fp32" else GPU_GAIN
    native = any(flag in flags for flag in NATIVE.get(precision, ()))
    gain = NATIVE_GAIN[precision] if native else OTHER_GAIN.get(precision, 1.0)
    return gain * ENGINE_GAIN.get(engine, max(ENGINE_GAIN.values()))


def operations(config: ModelConfig, top: int) -> float:
    """Floating-point operations of the first ``top`` layers for a second of audio, attention's own products left out.

    A token needs two operations for each weight: four D x D matrices of attention and two D x F of the feed-forward
    network in each layer (Vaswani et al., arXiv 1706.03762, section 3).
    """
    tokens = FRAMES_PER_SECOND / config.patch_frames * config.mel_patches
    return 2.0 * tokens * top * _layer_weights(config)


def usual_start(engine: str, config: ModelConfig) -> float:
    """The seconds that an engine usually takes to start with such a model."""
    seconds, more = STARTS.get(engine, max(STARTS.values()))
    return seconds + more * 1e-9 * config.depth * _layer_weights(config)


def _layer_weights(config: ModelConfig) -> int:
    return 4 * config.embed_dim**2 + 2 * config.embed_dim * config.ffn_dim


@dataclass
class Plan:
    """The options of a job and what is known about them."""

    options: Sequence[Option]
    """Those that can run here, the baseline first."""
    gains: dict[Option, float]
    """`highest_gain` of each."""
    starts: dict[Option, float]
    """The seconds that each is thought to take to start."""
    audio_seconds: float = ENDLESS_SECONDS
    """The audio of the job."""
    checked_seconds: float = 0.0
    """Audio that the baseline and an option in a lower precision embed before it is taken, to compare them."""
    costs: dict[Option, Cost] = field(default_factory=dict)
    """What was measured, now or in an earlier job."""
    refused: set[Option] = field(default_factory=set)
    """Options that failed, or whose numbers are not those of float32."""
    running: set[Option] = field(default_factory=set)
    """Options that are started already, so that their start is paid."""

    @property
    def usable(self) -> list[Option]:
        """The options that are not refused."""
        return [option for option in self.options if option not in self.refused]

    @property
    def baseline(self) -> Option:
        """The option of a job in which nothing else pays: the first one."""
        return self.usable[0]

    def total(self, option: Option) -> float:
        """The seconds that the job still needs with an option whose cost is known."""
        start, pace = self.costs[option]
        start += self._check(option, pace)
        return (0.0 if option in self.running else start) + self.audio_seconds * pace

    def _check(self, option: Option, pace: float) -> float:
        """The seconds that comparing an option with the baseline takes, if it has this pace."""
        exact = option[1] == self.options[0][1]
        base = self.costs[self.baseline].pace if self.baseline in self.costs else pace
        return 0.0 if exact else self.checked_seconds * (base + pace)

    def best(self) -> Option:
        """The option with which the job ends first, of those whose costs are known; the baseline where its is not."""
        best = self.baseline
        known = [option for option in self.usable if option in self.costs] if best in self.costs else []
        for option in sorted(known, key=lambda option: EXACTNESS.index(option[1])):
            clearly = self.costs[best].pace >= MIN_SPEEDUP * self.costs[option].pace
            if clearly and self.total(option) < self.total(best):
                best = option
        return best

    def may_pay(self, assumed: float) -> bool:
        """Whether another option may pay where the baseline has this pace, so that the baseline is worth measuring."""
        known = [self.total(option) for option in self.usable if option in self.costs]
        return self.worth_trying(assumed) is not None or any(each < self.audio_seconds * assumed for each in known)

    def worth_trying(self, assumed: float | None = None) -> Option | None:
        """The unmeasured option that may save most, if that is much more than starting and measuring it costs.

        Args:
            assumed: The pace of the baseline, where it is not known.
        """
        base = self.baseline
        if base in self.costs:
            pace, now = self.costs[base].pace, self.total(self.best())
        else:
            pace = assumed or 0.0
            now = self.audio_seconds * pace
        found, most = None, 0.0
        for option in self.usable:
            hoped = pace * self.gains[base] / self.gains[option]
            saved = now - self.audio_seconds * hoped
            cost = self.starts[option] + self._check(option, hoped) + MEASURING_SECONDS
            if option not in self.costs and option != base and cost <= TRIAL_SHARE * saved and saved - cost > most:
                found, most = option, saved - cost
        return found

    def reason(self, option: Option) -> str:
        """Why this option is taken, in words."""
        base = self.baseline
        speedups = {
            other: self.costs[base].pace / self.costs[other].pace
            for other in self.usable
            if other != base and {base, other} <= set(self.costs)
        }
        if option != base:
            others = [f"{' '.join(other)} {speedup:.2f}" for other, speedup in speedups.items() if other != option]
            more = f" ({', '.join(others)})" if others else ""
            return f"{speedups[option]:.2f} times as fast as {' '.join(base)} here{more}"
        if not speedups:
            return self._reason_unmeasured()
        fastest = max(speedups, key=lambda other: speedups[other])
        listed = ", ".join(f"{' '.join(other)} {speedup:.2f} times" for other, speedup in speedups.items())
        if speedups[fastest] < MIN_SPEEDUP:
            return f"nothing here is clearly faster ({listed})"
        start = self.costs[fastest].start
        return f"too little audio for a start of {start:.1f} s to pay ({listed})"

    def _reason_unmeasured(self) -> str:
        """Why the baseline is taken where nothing was measured beside it."""
        others = [option for option in self.usable if option != self.baseline]
        if others and all(self.gains[other] <= self.gains[self.baseline] for other in others):
            return "nothing here is likely to be faster"
        endless = self.audio_seconds >= ENDLESS_SECONDS
        return "too little audio for another engine to pay" if others and not endless else "nothing else here works"
