"""Writes a checkpoint as a folder that s3prl loads with ``--hub huggingface``, from disk or from a hub repository."""

from pathlib import Path

from maeast_upstream import checkpoint

EXPERT = '''"""MAE-AST for s3prl's --hub huggingface; `maeast_upstream.load_model` reads this folder, too."""

from pathlib import Path

from maeast_upstream import expert


class UpstreamExpert(expert.UpstreamExpert):
    """The encoder whose weights are beside this file."""

    def __init__(self, ckpt=None, model_config=None, refresh=False, **options):
        super().__init__(Path(__file__).resolve().parent, model_config, refresh, **options)
'''


FILES = {"expert.py": EXPERT, "requirements.txt": "maeast-upstream\n"}

CHECKPOINT_FILES = (checkpoint.WEIGHTS_NAME, checkpoint.CONFIG_NAME, checkpoint.PROJECTION_NAME)


def check_folder(folder: Path) -> None:
    """Raise ValueError unless the folder is new, empty or an earlier export."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected the name of a folder")
    # s3prl's import of expert.py leaves Python's cache there
    exported = {*FILES, *CHECKPOINT_FILES, "__pycache__"}
    others = sorted({path.name for path in folder.iterdir()} - exported) if folder.is_dir() else []
    if others:
        raise ValueError(f"{folder} holds files that are no export ({others[0]}); give another name")
