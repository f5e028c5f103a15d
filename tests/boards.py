"""A labels.csv in the forms that X-ARES and MTEB read."""

import csv
import io
import json
import tarfile

import soundfile

from maeast_upstream.audio.reading import read_audio

FOLDS = 5


def read_labels(path, classes=None):
    """(path of the clip, number of its class, split) of each row; the classes' names."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if classes is None or row["label"] in classes]
    names = sorted({row["label"] for row in rows})
    return [(path.parent / row["path"], names.index(row["label"]), row["split"]) for row in rows], names


def write_esc50(folder, rows):
    """Clips under the names of ESC-50's folds, so that X-ARES downloads nothing."""
    folder.mkdir(parents=True)
    for fold in range(1, FOLDS + 1):
        with tarfile.open(folder / f"wds-audio-fold-{fold}-000000.tar", "w") as tar:
            for number, (path, label, _) in enumerate(rows[fold - 1 :: FOLDS]):
                wav = io.BytesIO()
                soundfile.write(wav, read_audio(path), 16000, format="WAV")
                for suffix, content in (
                    ("wav", wav.getvalue()),
                    ("json", json.dumps({"label": label}).encode()),
                ):
                    member = tarfile.TarInfo(f"clip{fold}x{number}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    (folder / ".audio_tar_ready").touch()


def mteb_task(name, rows):
    """A classification task of mteb: train clips against test clips."""
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.classification import AbsTaskClassification
    from mteb.abstasks.task_metadata import TaskMetadata

    class Labelled(AbsTaskClassification):
        metadata = TaskMetadata(
            name=name,
            description=name,
            dataset={"path": "none", "revision": "1"},
            type="AudioClassification",
            category="a2c",
            eval_splits=["test"],
            eval_langs=["zxx-Zxxx"],
            main_score="accuracy",
            modalities=["audio"],
            **dict.fromkeys(
                (
                    "reference",
                    "date",
                    "domains",
                    "task_subtypes",
                    "license",
                    "annotations_creators",
                )
            ),
            **dict.fromkeys(("dialect", "sample_creation", "bibtex_citation")),
        )
        input_column_name = "audio"

        def load_data(self, **options):
            items = {"train": [], "test": []}
            for path, label, split in rows:
                if split in items:
                    audio = {"array": read_audio(path).tolist(), "sampling_rate": 16000}
                    items[split].append({"audio": audio, "label": label})
            self.dataset = DatasetDict({split: Dataset.from_list(part) for split, part in items.items()})
            self.data_loaded = True

    return Labelled()
