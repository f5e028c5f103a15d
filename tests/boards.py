"""A labels.csv in the forms that X-ARES and MTEB read: for MTEB a task of each type that it has for audio alone."""

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


def mteb_tasks(rows, eval_split="test"):
    """A task of each type that MTEB has for audio alone, on the same clips, by type.

    Clips of ``eval_split`` are scored; classifiers are trained on those of train, eight of each class as MTEB does.
    """
    from mteb.abstasks import AbsTaskClustering, AbsTaskPairClassification
    from mteb.abstasks.classification import AbsTaskClassification
    from mteb.abstasks.multilabel_classification import AbsTaskMultilabelClassification
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    parts = {"train": [row for row in rows if row[2] == "train"], "test": [row for row in rows if row[2] == eval_split]}
    every = [row for part in parts.values() for row in part]
    labelled = {split: _dataset(part, label=[label for _, label, _ in part]) for split, part in parts.items()}
    several = {split: _dataset(part, label=[[label] for _, label, _ in part]) for split, part in parts.items()}
    by_label = sorted(every, key=lambda row: row[1])
    pairs = [
        (one, other)
        for step in (1, len(every) // 3)
        for one, other in zip(by_label, by_label[step:] + by_label[:step], strict=True)
    ]
    paired = {
        "audio1": _audio([one[0] for one, _ in pairs]),
        "audio2": _audio([other[0] for _, other in pairs]),
        "label": [int(one[1] == other[1]) for one, other in pairs],
    }
    found = {
        "AudioClassification": (AbsTaskClassification, "accuracy", labelled, {}),
        "AudioMultilabelClassification": (AbsTaskMultilabelClassification, "accuracy", several, {}),
        "AudioClustering": (
            AbsTaskClustering,
            "v_measure",
            {"test": _dataset(every, label=[label for _, label, _ in every])},
            {"label_column_name": "label", "max_fraction_of_documents_to_embed": None},
        ),
        "AudioPairClassification": (
            AbsTaskPairClassification,
            "max_ap",
            {"test": _table(paired)},
            {"input1_column_name": "audio1", "input2_column_name": "audio2", "label_column_name": "label"},
        ),
        "Any2AnyRetrieval": (AbsTaskRetrieval, "ndcg_at_10", _retrieval(parts), {}),
        "AudioReranking": (AbsTaskRetrieval, "map_at_1000", _retrieval(parts, candidates=13), {}),
    }
    return {kind: _mteb_task(kind, *given) for kind, given in found.items()}


def _audio(paths):
    return [{"bytes": path.read_bytes(), "path": path.name} for path in paths]


def _table(columns):
    """A table whose audio is decoded as that of the hub's sets is."""
    from datasets import Audio, Dataset

    table = Dataset.from_dict(columns)
    for name in columns:
        if name.startswith("audio"):
            table = table.cast_column(name, Audio())
    return table


def _dataset(rows, **columns):
    return _table({"audio": _audio([path for path, *_ in rows]), **columns})


def _retrieval(parts, candidates=None):
    """Test clips as queries, train clips as the corpus, those of the same class relevant; of candidates a few."""
    queries, corpus = parts["test"], parts["train"]
    relevant = {
        f"q{i}": {f"c{j}": 1 for j, row in enumerate(corpus) if row[1] == query[1]} for i, query in enumerate(queries)
    }
    ranked = {}
    for number, name in enumerate(relevant) if candidates else ():
        others = [f"c{j}" for j in range(len(corpus)) if f"c{j}" not in relevant[name]]
        ranked[name] = [*list(relevant[name])[:3], *others[number % 5 :: len(others) // candidates + 1]]
        relevant[name] = dict.fromkeys(ranked[name][:3], 1)
    split = {
        "queries": _dataset(queries, id=list(relevant)),
        "corpus": _dataset(corpus, id=[f"c{j}" for j in range(len(corpus))]),
        "relevant_docs": relevant,
        "top_ranked": ranked or None,
    }
    return {"default": {"test": split}}


def _mteb_task(kind, base, score, content, attributes):
    from datasets import DatasetDict
    from mteb.abstasks.task_metadata import TaskMetadata

    unknown = ("reference", "date", "domains", "task_subtypes", "license", "annotations_creators")
    unknown += ("dialect", "sample_creation", "bibtex_citation")
    metadata = TaskMetadata(
        name=f"Small{kind}",
        description="Clips in this repository",
        dataset={"path": "none", "revision": "1"},
        type=kind,
        category="a2a" if "Pair" in kind or base.__name__ == "AbsTaskRetrieval" else "a2c",
        eval_splits=["test"],
        eval_langs=["zxx-Zxxx"],
        main_score=score,
        modalities=["audio"],
        **dict.fromkeys(unknown),
    )

    def load_data(self, **options):
        self.dataset = content if "default" in content else DatasetDict(content)
        self.data_loaded = True

    body = {"metadata": metadata, "input_column_name": "audio", "load_data": load_data, **attributes}
    return type(kind, (base,), body)()
