"""Clusters the tokens of a layer over a packed corpus, in bounded memory."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.batching import plan_batches
from maeast_upstream.encoder import Encoder
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.messages import install_extra
from maeast_upstream.progress import progress_bar, say
from maeast_upstream.storage.atomic import replacing_folder
from maeast_upstream.time_grid import TimeGrid
from pretrain.data.clips import PackedClips
from pretrain.targets.clusters import CENTRES_NAME, LABELS_NAME, RECORD_NAME, ClusterRecord, steps_of

SAMPLE_CLIPS, SAMPLE_SECONDS = 20_000, 10.0
"""The sample is drawn from at most so many clips, and so much of each, because a forward pass costs most."""
GROUP_SAMPLES = 600 * SAMPLE_RATE
"""Audio that is read at once; a longer clip is a group of its own."""
KMEANS = {
    "init": "k-means++",
    "n_init": 20,
    "batch_size": 10_000,
    "max_iter": 100,
    "max_no_improvement": 100,
    "reassignment_ratio": 0.0,
    "tol": 0.0,
}
"""Settings of HuBERT's k-means in fairseq (examples/hubert/simple_kmeans)."""


def write_clusters(
    out: Path,
    encoder: Encoder,
    checkpoint: str,
    clips: PackedClips,
    layer: int,
    clusters: int,
    *,
    sample: int,
    seed: int,
) -> np.ndarray:
    """Write the cluster of every token of a packed corpus; the folder appears whole or not at all.

    Args:
        out: the folder.
        encoder: the model whose tokens are clustered.
        checkpoint: its name.
        clips: the corpus.
        layer: of the encoder, counted from 1.
        clusters: number of clusters.
        sample: tokens in which they are found.
        seed: of the sample and of k-means.

    Returns:
        (clusters,) number of tokens of each.

    Raises:
        ValueError: there are fewer tokens than clusters, or scikit-learn is not installed.
    """
    model = encoder.config.model
    grid = finest_grid(model.patch_frames)
    tokens = sample_tokens(encoder, clips, grid, layer, sample, seed)
    say(f"k-means: {clusters} clusters in {len(tokens)} tokens")
    centres = fit_centres(tokens, clusters, seed)
    record = ClusterRecord(
        corpus=clips.digest,
        clips=len(clips.lengths),
        checkpoint=checkpoint,
        fingerprint=fingerprint(encoder),
        layer=layer,
        clusters=clusters,
        seed=seed,
        sampled=len(tokens),
        mel_patches=model.mel_patches,
        **dataclasses.asdict(grid),
    )
    with replacing_folder(out) as part:
        counts = _write_labels(part / LABELS_NAME, encoder, clips, record, centres)
        np.save(part / CENTRES_NAME, centres)
        record.write(part / RECORD_NAME)
    return counts


def finest_grid(patch_frames: int) -> TimeGrid:
    """The time steps of a model that lie closest: a crop may begin anywhere, and its tokens get the nearest step."""
    try:
        return TimeGrid.with_hop(patch_frames, 40.0)
    except ValueError:  # only patch models of 16 frames have it
        return TimeGrid.with_hop(patch_frames, None)


def sample_tokens(
    encoder: Encoder, clips: PackedClips, grid: TimeGrid, layer: int, count: int, seed: int
) -> np.ndarray:
    """(at most ``count``, D) float32 tokens, of each clip about as many: training draws clips, too, not minutes."""
    random = np.random.default_rng(seed)
    usable = np.flatnonzero(clips.lengths)
    chosen = np.sort(random.permutation(usable)[:SAMPLE_CLIPS])
    each = -(-count // max(1, len(chosen)))
    found = []
    most = round(SAMPLE_SECONDS * SAMPLE_RATE)
    lengths = clips.lengths[chosen].clip(max=most)
    for group in progress_bar(list(_groups(lengths)), unit="part", desc="sampling tokens"):
        audio = [torch.from_numpy(clips.read(int(chosen[i]), most, random.random())) for i in group]
        rows = [np.empty((0, encoder.embed_dim), np.float32) for _ in group]
        for clip, _, tokens in layer_tokens(encoder, audio, grid, layer):
            values = tokens.cpu().numpy()
            for number in np.unique(clip):
                rows[number] = np.concatenate([rows[number], values[clip == number].reshape(-1, values.shape[-1])])
        found += [row[random.permutation(len(row))[:each]] for row in rows]
    sampled = np.concatenate(found)
    return sampled if len(sampled) <= count else sampled[np.sort(random.permutation(len(sampled))[:count])]


def fit_centres(tokens: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """(clusters, D) float32 centres of (tokens, D) by k-means on small batches."""
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise ValueError(f"clusters need scikit-learn: {install_extra('probe')}") from error
    if len(tokens) < clusters:
        raise ValueError(f"--clusters {clusters}: the sample has {len(tokens)} tokens; give fewer, or more --sample")
    model = MiniBatchKMeans(clusters, random_state=seed, compute_labels=False, **KMEANS).fit(tokens)
    centres: np.ndarray = model.cluster_centers_.astype(np.float32)
    return centres


def layer_tokens(
    encoder: Encoder, audio: Sequence[Tensor], grid: TimeGrid, layer: int
) -> Iterator[tuple[np.ndarray, np.ndarray, Tensor]]:
    """Tokens of clips, some time steps at a time.

    Args:
        encoder: the model.
        audio: (S_i,) clips, float32 or int16, none of them empty.
        grid: where the time steps lie.
        layer: counted from 1.

    Yields:
        (n,) which clip, (n,) which time step of it, (n, M, D) float32 tokens on the encoder's device.
    """
    steps = torch.tensor([grid.steps(len(clip)) for clip in audio])
    shape = (encoder.config.model.mel_patches, encoder.embed_dim)
    with torch.inference_mode():
        for batch in plan_batches([len(clip) for clip in audio], grid, encoder.batch_limits(audio)):
            numbers = torch.tensor(batch)
            for chunk in encoder.forward_batch([audio[number] for number in batch], grid, [layer]):
                clip, step = numbers[chunk.clip.cpu()], chunk.step.cpu()
                own = step < steps[clip]
                tokens = chunk.values[0].reshape(-1, *shape).float()
                yield clip[own].numpy(), step[own].numpy(), tokens[own.to(tokens.device)]


def _write_labels(
    path: Path, encoder: Encoder, clips: PackedClips, record: ClusterRecord, centres: np.ndarray
) -> np.ndarray:
    """Write the nearest centre of every token; how many tokens each centre has."""
    steps = steps_of(record.grid, clips.lengths)
    offsets = steps.cumsum() - steps
    labels = np.memmap(path, np.uint16, "w+", shape=(int(steps.sum()), record.mel_patches))
    counts = np.zeros(record.clusters, np.int64)
    nearest = torch.from_numpy(centres).to(encoder.device)
    half_norms = nearest.square().sum(1) / 2
    for group in progress_bar(list(_groups(clips.lengths)), unit="part", desc="assigning clusters"):
        starts, ends = clips.corpus.offsets[group], clips.corpus.offsets[group] + clips.lengths[group]
        audio = [torch.from_numpy(np.array(clips.corpus.audio[i:j])) for i, j in zip(starts, ends, strict=True)]
        for clip, step, tokens in layer_tokens(encoder, audio, record.grid, record.layer):
            found = (tokens @ nearest.T - half_norms).argmax(-1).cpu().numpy()
            labels[offsets[np.asarray(group)[clip]] + step] = found
            counts += np.bincount(found.reshape(-1), minlength=record.clusters)
    labels.flush()
    return counts


def _groups(lengths: np.ndarray) -> Iterator[list[int]]:
    """Numbers of the clips that are read at once, without empty ones, in their order."""
    group: list[int] = []
    samples = 0
    for number, length in enumerate(lengths.tolist()):
        if group and samples + length > GROUP_SAMPLES:
            yield group
            group, samples = [], 0
        if length:
            group.append(number)
            samples += length
    if group:
        yield group
