"""Our batched fbank against torchaudio's, clip by clip, on the same device."""

import torch
from timing import in_turn, ratio

from maeast_upstream.frontend import Fbank

CLIPS, SECONDS = 64, 10


def run(device: str, rounds: int = 7) -> list[tuple[str, str, str]]:
    """Rows (what, measured, wanted)."""
    from torchaudio.compliance.kaldi import fbank

    torch.manual_seed(0)
    waveforms = 0.1 * torch.randn(CLIPS, SECONDS * 16_000, device=device)
    ours = Fbank().to(device)

    def loop() -> list[torch.Tensor]:
        options = {"sample_frequency": 16_000, "use_energy": False, "num_mel_bins": 128}
        return [fbank(clip[None], **options) for clip in waveforms]

    times = in_turn({"torchaudio": loop, "ours": lambda: ours(waveforms)}, rounds)
    wanted = "at least 1" if device == "cpu" else "at least 10"
    what = f"front end, {CLIPS} clips of {SECONDS} s, {device}: torchaudio's loop / ours"
    return [(what, f"{ratio(times['torchaudio'], times['ours']):.2f}", wanted)]
