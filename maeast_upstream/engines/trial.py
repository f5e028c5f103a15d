"""Finds the engine and the precision that suit a job: starts, checks and measures those that may pay.

What was measured is kept in the user's cache folder, so that a machine measures once. `policy` decides what is tried.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from maeast_upstream.encoder import Encoded, Encoder
from maeast_upstream.engines import timing
from maeast_upstream.engines.memory import Memory
from maeast_upstream.engines.policy import Cost, Option, Plan, highest_gain, operations, usual_start
from maeast_upstream.engines.sound import make_sound
from maeast_upstream.engines.streams import stream_pool
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.inference import Precision, Transformer
from maeast_upstream.messages import shortened

LEAST_COSINE = 0.999
"""Minimum cosine of a time step in a lower precision with the same in float32, where the precision is chosen here."""
CHECK_SECONDS = (2.0, 0.7, 0.3)
"""Lengths of the clips on which precisions are compared: several, so that some are padded."""
PROBE_OPERATIONS, TRIAL_OPERATIONS = 1e10, 4e10
"""Floating-point operations of the clip on which torch alone is measured, and of that on which an engine competes:
1 and 5 s of audio for the base model, about 0.1 and 0.5 s of a core."""
SHORTEST, LONGEST = 0.5, 10.0
"""Limits of that clip, in seconds."""
SLOW_CORE, SLOW_GPU = 1e10, 1e12
"""Floating-point operations per second of torch on a slow machine: where a job is short even there, nothing is
measured. A core of an AMD EPYC (family 25, model 17) does 7e10."""

logger = logging.getLogger(__name__)


FLOAT32: Option = ("torch", "fp32")


class Start(Protocol):
    """Starts an engine."""

    def __call__(self, encoder: Encoder, engine: str, precision: Any, keep: list[int]) -> Transformer | None:
        """The engine, compiled and checked; None, with a warning, where that fails."""


def torch_precision(precision: str) -> Precision:
    """The precision of torch where it replaces an engine of ``precision``: the same, but fp32 for int8."""
    return "bf16" if precision == "bf16" else "fp16" if precision == "fp16" else "fp32"


def warn(engine: str, error: Exception) -> None:
    """Log that an engine failed, in one line."""
    reason = shortened(error) or type(error).__name__
    logger.warning("engine %s failed, torch replaces it: %s", engine, reason)


@dataclass
class Trial:
    """Tries options with an encoder, which keeps its number of streams and loses what was attached to it."""

    encoder: Encoder
    keep: list[int]
    """The layers that the job needs, ascending."""
    plan: Plan
    memory: Memory
    start: Start
    judged: bool
    """Whether a lower precision must be close to float32."""
    transformers: dict[Option, Transformer | None] = field(default_factory=dict)
    """What was started; None for torch."""
    cosines: dict[Option, float] = field(default_factory=dict)
    """The least cosine of a time step with float32, of the options that were checked."""

    def run(self) -> Option | None:
        """The option to take, whose engine is in ``transformers`` then; None where none works."""
        while self.plan.usable:
            option = self._worth_measuring()
            if option is not None:
                if self._prepare(option):
                    self._compete(option)
            elif self._prepare(best := self.plan.best()):
                if best not in (("torch", "bf16"), ("torch", "fp16")):
                    self.encoder.free_half_weights()
                return best
        return None

    def remarks(self, option: Option) -> list[str]:
        """What was found about precisions, for the line that says why an option was taken."""
        found = [f"cosine with float32 {self.cosines[option]:.5f}"] if option in self.cosines else []
        refused = [(" ".join(other), cosine) for other, cosine in self.cosines.items() if not cosine >= LEAST_COSINE]
        listed = ", ".join(f"{name} {cosine:.5f}" for name, cosine in refused)
        return found + ([f"too far from float32: {listed}"] if listed else [])

    def _worth_measuring(self) -> Option | None:
        """The option to start and measure next; where one may pay, the baseline is measured first."""
        plan, base = self.plan, self.plan.baseline
        if base not in plan.costs:
            if not plan.may_pay(self._slow_pace()) or not self._prepare(base):
                return None
            self._note(base, self._paces([base], PROBE_OPERATIONS, rounds=1)[base])
        return plan.worth_trying()

    def _slow_pace(self) -> float:
        """Seconds for a second of audio on a slow machine."""
        threads = torch.get_num_threads() * self.encoder.runtime.streams
        speed = SLOW_CORE * threads if self.encoder.device.type == "cpu" else SLOW_GPU
        return operations(self.encoder.config.model, self.keep[-1]) / speed

    def _prepare(self, option: Option) -> bool:
        """Start an option and compare it with float32; where that fails, False, and it is refused from now on."""
        if option in self.transformers:
            return True
        engine, precision = option
        judged = self.judged and precision != "fp32"
        if judged and self._was_far(option):
            self._refuse(option)
            return False
        if engine == "torch":
            self.transformers[option] = None
        else:
            self._use(("torch", precision))
            clock = timing.clock_of(self.encoder.device, threads=1)
            begun = clock()
            transformer = self.start(self.encoder, engine, precision, self.keep)
            if transformer is None:
                self._refuse(option)
                return False
            self.transformers[option] = transformer
            self._note_start(option, clock() - begun)
        if judged and not self._is_close(option):
            self._refuse(option)
            return False
        return True

    def _was_far(self, option: Option) -> bool:
        """Whether an earlier job found these weights too far from float32, so that nothing is started for it again."""
        cosine = self.memory.cosines().get(option, 1.0)
        if cosine < LEAST_COSINE:
            self.cosines[option] = cosine
        return cosine < LEAST_COSINE

    def _is_close(self, option: Option) -> bool:
        """Whether all time steps of the layers are close to those of torch in float32."""
        if option not in self.cosines:
            sound = make_sound(sum(CHECK_SECONDS))
            clips = list(torch.split(sound, [round(seconds * SAMPLE_RATE) for seconds in CHECK_SECONDS]))
            try:
                self.cosines[option] = least_cosine(*(self._encoded(each, clips) for each in (FLOAT32, option)))
            except Exception as error:  # whatever an engine raises
                warn(option[0], error)
                return False
            self.memory.add_cosine(option, self.cosines[option])
        return self.cosines[option] >= LEAST_COSINE  # False where it is not a number

    def _compete(self, option: Option) -> None:
        """Measure an option in turn with the baseline; then keep only what may still be taken."""
        base = self.plan.baseline
        if not self._prepare(base):
            return
        try:
            paces = self._paces([base, option], TRIAL_OPERATIONS)
        except Exception as error:  # whatever an engine raises, such as memory that a batch lacks
            warn(option[0], error)
            self._refuse(option)
            return
        for measured, pace in paces.items():
            self._note(measured, pace)
        for other in set(self.transformers) - {base, self.plan.best()}:
            self._drop(other)

    def _paces(self, options: Sequence[Option], most: float, rounds: int = timing.ROUNDS) -> dict[Option, float]:
        """Seconds of each option for a second of audio, all streams busy, on a clip of so many operations at most."""
        seconds = most / operations(self.encoder.config.model, self.keep[-1])
        seconds = min(max(seconds, SHORTEST), LONGEST, self.encoder.max_seconds)
        clip, streams = make_sound(seconds), self.encoder.runtime.streams
        clock = timing.clock_of(self.encoder.device, torch.get_num_threads() * streams)
        with stream_pool(streams) as submit:

            def work_of(option: Option) -> Callable[[], object]:
                def work() -> None:
                    self._use(option)
                    for wait in [submit(self._forward, [clip]) for _ in range(streams)]:
                        wait()

                return work

            taken = timing.measure({" ".join(option): work_of(option) for option in options}, clock, rounds)
        return {option: taken[" ".join(option)] / (seconds * streams) for option in options}

    def _encoded(self, option: Option, clips: list[Tensor]) -> Encoded:
        self._use(option)
        return self._forward(clips)

    @torch.no_grad()
    def _forward(self, clips: list[Tensor]) -> Encoded:
        encoded = self.encoder.encode(clips, layers=self.keep)
        encoded.hidden_states[-1][0, 0, 0].item()  # waits for a GPU
        return encoded

    def _use(self, option: Option) -> None:
        """Let an option run the encoder."""
        engine, precision = option
        transformer = None if engine == "torch" else self.transformers[option]
        runtime = replace(self.encoder.runtime, precision=torch_precision(precision), transformer=transformer)
        self.encoder.use_runtime(runtime)

    def _note(self, option: Option, pace: float) -> None:
        """Note and remember what was measured; the start of an engine is noted already."""
        self.plan.costs[option] = Cost(self.plan.starts[option], pace)
        self.memory.add_cost(option, self.plan.costs[option])

    def _note_start(self, option: Option, seconds: float) -> None:
        """Note what a start took; the shortest counts, since the first one reads its files from a disk."""
        known = self.plan.costs.get(option)
        self.plan.starts[option] = min(seconds, known.start) if known else seconds
        self.plan.running.add(option)
        if known:
            self._note(option, known.pace)

    def _refuse(self, option: Option) -> None:
        """Never take an option in this job; a later job tries it again, since memory may have been short."""
        self._drop(option)
        self.plan.refused.add(option)

    def _drop(self, option: Option) -> None:
        """Free what an option holds."""
        self.transformers.pop(option, None)
        self.plan.running.discard(option)


def make_plan(encoder: Encoder, options: list[Option], memory: Memory, audio_seconds: float, judged: bool) -> Plan:
    """What is known about the options of a job.

    Args:
        encoder: With the number of streams that it will run in.
        options: Those that can run here, the baseline first.
        memory: Of earlier jobs.
        audio_seconds: The audio of the job.
        judged: Whether a lower precision must be close to float32.
    """
    device, flags = encoder.device.type, timing.instruction_sets()
    plan = Plan(
        options,
        gains={option: highest_gain(option, device, flags) for option in options},
        starts={option: usual_start(option[0], encoder.config.model) for option in options},
        audio_seconds=audio_seconds,
        checked_seconds=sum(CHECK_SECONDS) * encoder.runtime.streams if judged else 0.0,  # by one stream
    )
    for option, cost in memory.costs().items():
        plan.costs[option], plan.starts[option] = cost, cost.start
    return plan


def least_cosine(expected: Encoded, actual: Encoded) -> float:
    """The least cosine of the same time step in two results, over all layers and clips."""
    least = []
    for right, found in zip(expected.hidden_states, actual.hidden_states, strict=True):
        cosines = F.cosine_similarity(right.double(), found.double(), dim=-1)  # (B, T)
        least += [cosines[row, :length].min() for row, length in enumerate(expected.lengths)]
    return float(torch.stack(least).min())
