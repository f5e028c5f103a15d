"""First steps: embed a folder of audio, find similar clips, train a classifier.

Run it from the repository: python examples/first_steps.py
It needs the extra `probe` (scikit-learn): pip install '.[probe]'
"""

import csv
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from maeast_upstream import load_model
from maeast_upstream.extract import embed_files

FOLDER = Path("tests/data")

# 1. Load a model. Without an argument this is the small checkpoint that comes with the package.
model = load_model()

# 2. Embed every file of a folder: one vector per file.
rows = list(embed_files([FOLDER / "audio"], model))
names = [Path(row["path"]).name for row in rows]
vectors = np.stack([row["vector"] for row in rows])
print(f"{len(names)} clips, {vectors.shape[1]} dimensions")

# 3. Find similar clips: the cosine similarity of all pairs. The mean is subtracted, because it is common to all clips.
centred = vectors - vectors.mean(axis=0)
centred /= np.linalg.norm(centred, axis=1, keepdims=True)
similarity = centred @ centred.T
query = names.index("snare-BJA_Pacific_sn4_07.opus")
print(f"most similar to {names[query]}:")
for index in np.argsort(similarity[query])[::-1][1:4]:
    print(f"  {similarity[query, index]:.2f}  {names[index]}")

# 4. Train a classifier on the vectors. The CSV holds a path, a label and a split for each clip.
with (FOLDER / "labels.csv").open(newline="") as file:
    clips = {Path(row["path"]).name: row for row in csv.DictReader(file)}
train = [index for index, name in enumerate(names) if name in clips and clips[name]["split"] == "train"]
test = [index for index, name in enumerate(names) if name in clips and clips[name]["split"] == "test"]
labels = np.array([clips[name]["label"] if name in clips else "" for name in names])
classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
classifier.fit(vectors[train], labels[train])
accuracy = classifier.score(vectors[test], labels[test])
print(f"test accuracy {accuracy:.0%} ({len(test)} clips, {len(classifier.classes_)} classes)")
