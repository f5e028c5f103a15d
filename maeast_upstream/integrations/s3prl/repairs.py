"""What today's torch, torchaudio and huggingface_hub removed, given back to s3prl 0.4.18, from outside.

Each repair is one function that names the removed API and the files of s3prl that need it, does nothing where the API
still exists, and says whether it had to act. `install_repairs` runs them all; it must come before s3prl's first import.
"""

import argparse
import contextlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from maeast_upstream.integrations.s3prl import sox_effects as sox

Repair = Callable[[], bool]


def install_repairs() -> list[str]:
    """Everything that is missing here; the names of the repairs that had to act. A second call does nothing."""
    return [repair.__name__ for repair in REPAIRS if repair()]


def audio_backend() -> bool:
    """``torchaudio.set_audio_backend`` (gone in 2.9): upstream/byol_s/byol_a/common.py, run_downstream.py."""
    import torchaudio

    if hasattr(torchaudio, "set_audio_backend"):
        return False
    torchaudio.set_audio_backend = lambda name: None
    return True


def sox_effects() -> bool:
    """``torchaudio.sox_effects`` (gone in 2.9; before, it needs libsox).

    upstream/mos_prediction/expert.py, and so all of s3prl.hub; KS's and ASV's downstream/speech_commands/dataset.py
    and downstream/sv_voxceleb1/dataset.py.
    """
    import torchaudio

    with contextlib.suppress(ImportError, OSError, RuntimeError):
        from torchaudio.sox_effects import effect_names

        effect_names()  # what asks for libsox
        return False
    module = ModuleType("torchaudio.sox_effects")
    module.apply_effects_file = sox.apply_effects_file  # type: ignore[attr-defined]
    module.apply_effects_tensor = sox.apply_effects_tensor  # type: ignore[attr-defined]
    module.effect_names = lambda: ["channels", "gain", "norm", "rate", "silence"]  # type: ignore[attr-defined]
    sys.modules["torchaudio.sox_effects"] = torchaudio.sox_effects = module
    return True


def load_and_save() -> bool:
    """``torchaudio.load`` and ``save`` without torchcodec (which they ask for from 2.9 on).

    util/pseudo_data.py and the data of most tasks, such as downstream/voxceleb1/dataset.py.
    """
    import torchaudio

    if hasattr(torchaudio, "list_audio_backends") or torchaudio.load is _load or _torchcodec_works():
        return False
    torchaudio.load, torchaudio.save = _load, _save
    return True


def _torchcodec_works() -> bool:
    """It may be installed, and fail for want of FFmpeg."""
    if importlib.util.find_spec("torchcodec") is None:
        return False
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        importlib.import_module("torchcodec")
        return True
    return False


def _load(
    uri: Any,
    frame_offset: int = 0,
    num_frames: int = -1,
    normalize: bool = True,
    channels_first: bool = True,
    **_: Any,
) -> tuple[torch.Tensor, int]:
    stop = None if num_frames < 0 else frame_offset + num_frames
    samples, rate = sox.read(uri, frame_offset, stop)
    tensor = torch.from_numpy(samples)
    return tensor if channels_first else tensor.T, rate


def _save(uri: Any, src: torch.Tensor, sample_rate: int, channels_first: bool = True, **_: Any) -> None:
    import soundfile

    # floats, as torchaudio writes them: pseudo data goes beyond 1
    subtype = "FLOAT" if str(uri).endswith(".wav") else None
    soundfile.write(
        uri,
        (src.T if channels_first else src).detach().cpu().numpy(),
        sample_rate,
        subtype=subtype,
    )


def info() -> bool:
    """``torchaudio.info`` (gone in 2.9): util/audio_info.py, problem/common/superb_ks.py."""
    import torchaudio

    if hasattr(torchaudio, "info"):
        return False
    torchaudio.info = _info
    return True


def _info(uri: Any, **_: Any) -> SimpleNamespace:
    import soundfile

    found = soundfile.info(uri)
    bits = next((bits for bits in (8, 16, 24, 32, 64) if str(bits) in found.subtype), 0)
    return SimpleNamespace(
        sample_rate=found.samplerate,
        num_frames=found.frames,
        num_channels=found.channels,
        bits_per_sample={"FLOAT": 32, "DOUBLE": 64}.get(found.subtype, bits),
        encoding=found.subtype,
    )


def hub_classes() -> bool:
    """``huggingface_hub.HfFolder`` and ``Repository`` (gone in 1.0): run_downstream.py and downstream/runner.py."""
    import huggingface_hub

    missing = [name for name in ("HfFolder", "Repository") if getattr(huggingface_hub, name, None) is None]
    for name in missing:
        setattr(
            huggingface_hub,
            name,
            {"HfFolder": _Folder, "Repository": _Repository}[name],
        )
    return bool(missing)


class _Folder:
    @staticmethod
    def save_token(token: str | None) -> None:
        """The hub's client keeps it by itself."""

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
    """``HfApi.login`` (gone in 0.8): run_downstream.py with ``--hub huggingface``."""
    from huggingface_hub import HfApi

    if hasattr(HfApi, "login"):
        return False
    HfApi.login = lambda self, username=None, password=None: os.environ.get("HF_TOKEN")  # type: ignore[attr-defined]
    return True


def hub_download() -> bool:
    """``snapshot_download(use_auth_token=...)`` (gone in 1.0): downstream/runner.py. Local folders are taken, too."""
    import huggingface_hub

    original = huggingface_hub.snapshot_download
    if "use_auth_token" in inspect.signature(original).parameters:
        return False

    def snapshot_download(
        repo_id: str,
        revision: str | None = None,
        use_auth_token: bool | str | None = None,
        **options: Any,
    ) -> Any:
        folder = Path(repo_id).expanduser()
        if folder.is_dir():
            return str(folder.resolve())
        # True would demand a token that public repositories do not need
        token = use_auth_token if isinstance(use_auth_token, str) else None
        return original(repo_id, revision=revision, **{"token": token, **options})

    huggingface_hub.snapshot_download = snapshot_download
    return True


def safe_globals() -> bool:
    """``torch.load`` of any object (refused from 2.6).

    run_downstream.py and downstream/runner.py read a Namespace from states-*.ckpt on -e, -a and -i.
    """
    if argparse.Namespace in torch.serialization.get_safe_globals():
        return False
    torch.serialization.add_safe_globals([argparse.Namespace])
    return True


def hard_coded_cuda() -> bool:
    """``Tensor.cuda()`` without CUDA: downstream/sv_voxceleb1/expert.py calls it whatever ``--device`` says."""
    if torch.cuda.is_available() or torch.Tensor.cuda is _stay:
        return False
    torch.Tensor.cuda = _stay  # type: ignore[assignment]
    return True


def _stay(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return tensor


def ctc_corpus() -> bool:
    """``s3prl.downstream.ctc.corpus``, left out of the wheel: downstream/ctc/data.py. Ours is found after its own."""
    spec = importlib.util.find_spec("s3prl.downstream.ctc")
    if spec is None or spec.submodule_search_locations is None:
        return False
    if any(Path(folder, "corpus").is_dir() for folder in spec.submodule_search_locations):
        return False
    package = importlib.import_module("s3prl.downstream.ctc")
    ours = str(Path(__file__).parent / "overlay")
    if ours in package.__path__:
        return False
    package.__path__.append(ours)
    return True


REPAIRS: tuple[Repair, ...] = (
    audio_backend,
    sox_effects,
    load_and_save,
    info,
    hub_classes,
    hub_login,
    hub_download,
    safe_globals,
    hard_coded_cuda,
    ctc_corpus,
)
