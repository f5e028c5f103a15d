"""Restores, from outside, what s3prl 0.4.18 needs of torch, torchaudio and huggingface_hub and they have removed.

Each repair is one function whose docstring names the removed API and the files of s3prl that need it. It does nothing
where the API still exists, and returns whether it changed something. `install_repairs` runs them all and must be called
before the first import of s3prl.
"""

import argparse
import contextlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch.utils.data import DistributedSampler

from maeast_upstream.integrations.s3prl import sox_effects as sox

Repair = Callable[[], bool]


def install_repairs() -> list[str]:
    """Run all repairs and return the names of those that changed something; a second call changes nothing."""
    return [repair.__name__ for repair in REPAIRS if repair()]


def audio_backend() -> bool:
    """Restore ``torchaudio.set_audio_backend``, removed in 2.9: upstream/byol_s/byol_a/common.py, run_downstream.py."""
    import torchaudio

    if hasattr(torchaudio, "set_audio_backend"):
        return False
    torchaudio.set_audio_backend = lambda name: None
    return True


def sox_effects() -> bool:
    """Restore ``torchaudio.sox_effects``, removed in 2.9; older versions need libsox.

    It is imported by upstream/mos_prediction/expert.py, and so by all of s3prl.hub, and by KS and ASV in
    downstream/speech_commands/dataset.py and downstream/sv_voxceleb1/dataset.py.
    """
    import torchaudio

    with contextlib.suppress(ImportError, OSError, RuntimeError):
        from torchaudio.sox_effects import effect_names

        effect_names()  # fails without libsox
        return False
    module = ModuleType("torchaudio.sox_effects")
    module.apply_effects_file = sox.apply_effects_file  # type: ignore[attr-defined]
    module.apply_effects_tensor = sox.apply_effects_tensor  # type: ignore[attr-defined]
    module.effect_names = lambda: ["channels", "gain", "norm", "rate", "silence"]  # type: ignore[attr-defined]
    sys.modules["torchaudio.sox_effects"] = torchaudio.sox_effects = module
    return True


def load_and_save() -> bool:
    """Replace ``torchaudio.load`` and ``save``, which need torchcodec from 2.9 on, where torchcodec does not work.

    They are used by util/pseudo_data.py and the data sets of most tasks, such as downstream/voxceleb1/dataset.py.
    """
    import torchaudio

    if hasattr(torchaudio, "list_audio_backends") or torchaudio.load is _load or _torchcodec_works():
        return False
    torchaudio.load, torchaudio.save = _load, _save
    return True


def _torchcodec_works() -> bool:
    """Whether torchcodec can be imported: an installed one fails without FFmpeg's libraries."""
    if importlib.util.find_spec("torchcodec") is None:
        return False
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        importlib.import_module("torchcodec")
        return True
    return False


def _load(
    uri: Any, frame_offset: int = 0, num_frames: int = -1, normalize: bool = True, channels_first: bool = True, **_: Any
) -> tuple[torch.Tensor, int]:
    stop = None if num_frames < 0 else frame_offset + num_frames
    samples, rate = sox.read(uri, frame_offset, stop)
    tensor = torch.from_numpy(samples)
    return tensor if channels_first else tensor.T, rate


def _save(uri: Any, src: torch.Tensor, sample_rate: int, channels_first: bool = True, **_: Any) -> None:
    import soundfile

    # float samples, as torchaudio writes them: s3prl's pseudo audio exceeds 1
    subtype = "FLOAT" if str(uri).endswith(".wav") else None
    soundfile.write(uri, (src.T if channels_first else src).detach().cpu().numpy(), sample_rate, subtype=subtype)


def info() -> bool:
    """Restore ``torchaudio.info``, removed in 2.9: util/audio_info.py, problem/common/superb_ks.py."""
    import torchaudio

    if hasattr(torchaudio, "info"):
        return False
    torchaudio.info = _info
    return True


def _info(uri: Any, **_: Any) -> SimpleNamespace:
    import soundfile

    header = soundfile.info(uri)
    bits = next((bits for bits in (8, 16, 24, 32, 64) if str(bits) in header.subtype), 0)
    return SimpleNamespace(
        sample_rate=header.samplerate,
        num_frames=header.frames,
        num_channels=header.channels,
        bits_per_sample={"FLOAT": 32, "DOUBLE": 64}.get(header.subtype, bits),
        encoding=header.subtype,
    )


def hub_classes() -> bool:
    """Restore the hub's ``HfFolder`` and ``Repository``, removed in 1.0: run_downstream.py, downstream/runner.py."""
    import huggingface_hub

    missing = [name for name in ("HfFolder", "Repository") if getattr(huggingface_hub, name, None) is None]
    for name in missing:
        setattr(huggingface_hub, name, {"HfFolder": _HfFolder, "Repository": _Repository}[name])
    return bool(missing)


class _HfFolder:
    @staticmethod
    def save_token(token: str | None) -> None:
        """Do nothing: the hub's client stores the token itself."""

    @staticmethod
    def get_token() -> str | None:
        from huggingface_hub import get_token

        return get_token()


class _Repository:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError(
            "--push_to_hf_hub needs huggingface_hub below 1.0; `hf upload` does the same with the experiment's folder"
        )


def hub_login() -> bool:
    """Restore ``HfApi.login``, removed in 0.8: run_downstream.py with ``--hub huggingface``."""
    from huggingface_hub import HfApi

    if hasattr(HfApi, "login"):
        return False
    HfApi.login = lambda self, username=None, password=None: os.environ.get("HF_TOKEN")  # type: ignore[attr-defined]
    return True


def hub_download() -> bool:
    """Restore ``snapshot_download(use_auth_token)``, removed in 1.0, also for local folders: downstream/runner.py."""
    import huggingface_hub

    original = huggingface_hub.snapshot_download
    if "use_auth_token" in inspect.signature(original).parameters:
        return False

    def snapshot_download(
        repo_id: str, revision: str | None = None, use_auth_token: bool | str | None = None, **options: Any
    ) -> Any:
        folder = Path(repo_id).expanduser()
        if folder.is_dir():
            return str(folder.resolve())
        # True would require a token, which public repositories do not need
        token = use_auth_token if isinstance(use_auth_token, str) else None
        return original(repo_id, revision=revision, **{"token": token, **options})

    huggingface_hub.snapshot_download = snapshot_download
    return True


def safe_globals() -> bool:
    """Let ``torch.load`` read an `argparse.Namespace`, which it refuses from 2.6 on.

    With -e, -a and -i, run_downstream.py and downstream/runner.py read one from states-*.ckpt.
    """
    if argparse.Namespace in torch.serialization.get_safe_globals():
        return False
    torch.serialization.add_safe_globals([argparse.Namespace])
    return True


def ctc_corpus() -> bool:
    """Add overlay/ as ``s3prl.downstream.ctc.corpus``, which s3prl's wheel lacks: downstream/ctc/data.py."""
    spec = importlib.util.find_spec("s3prl.downstream.ctc")
    if spec is None or spec.submodule_search_locations is None:
        return False
    if any(Path(folder, "corpus").is_dir() for folder in spec.submodule_search_locations):
        return False
    package = importlib.import_module("s3prl.downstream.ctc")
    overlay = str(Path(__file__).parent / "overlay")
    if overlay in package.__path__:
        return False
    package.__path__.append(overlay)
    return True


def catalyst_sampler() -> bool:
    """Supply ``catalyst.data.sampler.DistributedSamplerWrapper``: downstream/speech_commands/expert.py.

    It is all that s3prl uses of catalyst, whose last release (22.4) cannot be installed by pip from 24.1 on.
    """
    names = ("catalyst", "catalyst.data", "catalyst.data.sampler")
    if names[0] in sys.modules or importlib.util.find_spec(names[0]) is not None:
        return False
    for name in names:
        sys.modules[name] = ModuleType(name)
    sys.modules[names[-1]].DistributedSamplerWrapper = _DistributedSamplerWrapper  # type: ignore[attr-defined]
    return True


class _DistributedSamplerWrapper(DistributedSampler[int]):
    """This process's share of the indices that another sampler draws; all processes must draw the same ones."""

    def __init__(self, sampler: Any, **options: Any) -> None:
        super().__init__(sampler, **options)
        self.sampler = sampler

    def __iter__(self) -> Iterator[int]:
        indices = list(self.sampler)
        return iter([indices[position] for position in super().__iter__()])


REPAIRS: tuple[Repair, ...] = (
    audio_backend,
    sox_effects,
    load_and_save,
    info,
    hub_classes,
    hub_login,
    hub_download,
    safe_globals,
    ctc_corpus,
    catalyst_sampler,
)
