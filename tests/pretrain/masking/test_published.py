"""The published rules as plain loops over the same random numbers; and s3prl's own code."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pretrain.masking import rules
from pretrain.masking.published import chunk_official, kept_spans, spans_official, spans_official_scores
from pretrain.masking.rules import Grid, num_masked, removal_frequency


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def plain_chunk_mask(grid, ratio, seed):
    """forward_mask of the published code, mask_type chunk_mask, but for where its random numbers come from."""
    chance, count = generator(seed), num_masked(grid.tokens, ratio)
    chunk_size = 3 + int(torch.rand(1, 1, generator=chance) * 3)
    starts = iter((torch.rand(1, 4 * grid.tokens + 64, generator=chance) * grid.tokens).long()[0].tolist())
    chosen = set()
    while len(chosen) <= count:
        top_left = next(starts)
        for t_offset in range(chunk_size):
            for c_offset in range(chunk_size):
                candidate = top_left + t_offset + grid.mels * c_offset
                if candidate < grid.tokens:
                    chosen.add(candidate)
    return sorted(chosen)[:count]


@pytest.mark.parametrize("grid", [Grid(3, 62, 8), Grid(2, 12, 8), Grid(2, 50, 1)])
@pytest.mark.parametrize("ratio", [0.3, 0.75, 0.9])
def test_chunk_official_is_the_published_rule(grid, ratio):
    for seed in range(10):
        scores = chunk_official(grid, ratio, generator(seed))
        masked = rules.split_visible_masked(scores, num_masked(grid.tokens, ratio))[1].tolist()
        assert masked == [plain_chunk_mask(grid, ratio, seed)] * grid.batch


def plain_spans(tokens, probability, padding, seed):
    """compute_mask_indices of the published code, static spans of 10, at least 2, as retain_spans calls it."""
    chance = generator(seed)
    trim = torch.rand(len(padding), tokens, generator=chance)
    draws = torch.rand(len(padding), tokens + 1, generator=chance)
    kept = []
    for row in range(len(padding)):
        size = tokens - int(padding[row].sum())
        spans = max(2, int(float(probability * size / torch.tensor(10) + draws[row, 0])))
        least = 10
        if size - least <= spans:
            least = size - spans - 1
        order = sorted(range(size - least), key=lambda token: float(draws[row, 1 + token]))
        indices = {start + offset for start in order[:spans] for offset in range(10)}
        kept.append({index for index in indices if index < size})
    smallest = min(map(len, kept))
    cut = [sorted(sorted(own, key=lambda i: float(trim[row, i]))[:smallest]) for row, own in enumerate(kept)]
    return kept, cut


@pytest.mark.parametrize("tokens", [14, 100, 500])
@pytest.mark.parametrize("probability", [0.3, 0.75, 1.45])
def test_spans_official_is_the_published_rule(tokens, probability):
    padding = torch.arange(tokens) >= torch.tensor([tokens, tokens - 1, tokens])[:, None]
    for seed in range(10):
        kept, cut = plain_spans(tokens, probability, padding, seed)
        visible, masked = spans_official(tokens, probability, padding, generator(seed))
        assert visible.tolist() == cut
        assert masked.tolist() == [sorted(set(range(tokens)) - set(own)) for own in cut]
        chance = generator(seed)
        torch.rand(3, tokens, generator=chance)
        assert [set(row.nonzero().flatten().tolist()) for row in kept_spans(probability, padding, chance)] == kept


def drawn_random(chance, grid, prob):
    """forward_mask of the published code, mask_type random_mask, as (B, N) bool, True where masked."""
    masked = np.ones((grid.batch, grid.tokens), bool)
    for row in range(grid.batch):
        index = list(range(grid.tokens))
        chance.shuffle(index)
        masked[row, index[: max(1, int((1 - prob) * grid.tokens))]] = False
    return masked


def drawn_chunks(chance, grid, prob):
    """The same of mask_type chunk_mask."""
    count = grid.tokens - max(1, int((1 - prob) * grid.tokens))
    side, chosen = chance.randrange(3, 6), set()
    while len(chosen) <= count:
        first = chance.randrange(grid.tokens)
        square = (first + t + grid.mels * c for t in range(side) for c in range(side))
        chosen |= {token for token in square if token < grid.tokens}
    masked = np.zeros((grid.batch, grid.tokens), bool)
    masked[:, list(chosen)[:count]] = True
    return masked


def drawn_spans(chance, grid, prob):
    """The same of mask_type retain_spans, with compute_mask_indices of fairseq: static spans of 10, at least 2."""
    size, rows = grid.tokens, []
    for _ in range(grid.batch):
        spans = max(2, int(prob * size / 10 + chance.random()))
        least = size - spans - 1 if size - 10 <= spans else 10
        starts = chance.sample(range(size - least), spans)
        rows.append(sorted({start + offset for start in starts for offset in range(10)} & set(range(size))))
    smallest = min(map(len, rows))
    masked = np.ones((grid.batch, size), bool)
    for row, kept in enumerate(rows):
        masked[row, chance.sample(kept, smallest)] = False
    return masked


def from_scores(rule):
    def draw(generator, grid, prob):
        masked = rules.split_visible_masked(rule(grid, prob, generator), num_masked(grid.tokens, prob))[1]
        return torch.zeros(grid.batch, grid.tokens).scatter(1, masked, 1.0).bool().numpy()

    return draw


def our_spans(generator, grid, prob):
    padding = torch.zeros(grid.batch, grid.tokens, dtype=torch.bool)
    masked = spans_official(grid.tokens, prob, padding, generator)[1]
    return torch.zeros(grid.batch, grid.tokens).scatter(1, masked, 1.0).bool().numpy()


def summary(masks):
    """(batches, values): what of the tokens of a batch's first row is masked, how many, and in how many runs."""
    first = masks[:, 0].astype(float)
    runs = np.abs(np.diff(first, axis=1)).sum(axis=1, keepdims=True)
    together = (first[:, 1:] * first[:, :-1]).sum(axis=1, keepdims=True)
    alike = (masks[:, 0] == masks[:, 1]).sum(axis=1, keepdims=True)  # a batch with one mask, or each row its own
    return np.concatenate([first, first.sum(axis=1, keepdims=True), runs, together, alike], axis=1)


RULES = {
    "random": (drawn_random, from_scores(rules.random_scores), Grid(3, 6, 8), 0.75),
    "chunk": (drawn_chunks, from_scores(chunk_official), Grid(3, 12, 8), 0.75),
    "spans": (drawn_spans, our_spans, Grid(3, 60, 1), 1.45),
}


@pytest.mark.parametrize(("plain", "ours", "grid", "prob"), RULES.values(), ids=RULES)
def test_masks_are_distributed_as_the_published_ones(plain, ours, grid, prob):
    """Every mean over 1,000 batches lies within 5 standard errors, but for what is the same in every batch."""
    batches, chance, chances = 1000, random.Random(0), generator()
    theirs = summary(np.stack([plain(chance, grid, prob) for _ in range(batches)]))
    mine = summary(np.stack([ours(chances, grid, prob) for _ in range(batches)]))
    error = np.sqrt((theirs.var(axis=0) + mine.var(axis=0)) / batches)
    difference = np.abs(theirs.mean(axis=0) - mine.mean(axis=0))
    assert (difference <= 5 * error + 1 / batches).all(), (difference / (error + 1 / batches)).argmax()


def test_the_documented_probability_keeps_three_quarters():
    padding = torch.zeros(200, 500, dtype=torch.bool)
    kept = kept_spans(1.45, padding, generator()).float()
    assert kept.mean() == pytest.approx(0.788, abs=0.01)
    assert kept[:, -1].sum() == 0, "no span reaches the last token"


def test_in_a_recipe_the_ratio_is_the_removed_share_and_the_visible_are_spans():
    masked = rules.split_visible_masked(spans_official_scores(Grid(200, 500, 1), 0.75, generator()), 375)[1]
    picture = torch.zeros(200, 500).scatter(1, masked, 1.0)
    assert (picture[:, 1:] == picture[:, :-1]).float().mean() > 0.8
    assert picture[:, -1].mean() > 0.9, "the last token is seen only where a row had too few"


def test_chunks_of_the_published_rule_wrap_and_spare_the_first_tokens():
    frequency = removal_frequency(chunk_official, Grid(1, 62, 8), 0.75, generator(), 600)
    assert frequency[0, 0] < 0.3
    assert frequency[-1].mean() < frequency[30].mean() - 0.1, "the highest indices are left visible"


@pytest.mark.s3prl
def test_the_published_code_removes_tokens_as_often():
    from reference import BASE_PATCH, TASK
    from s3prl.upstream.mae_ast.mae_ast import MAE_AST

    theirs = SimpleNamespace(
        cfg=SimpleNamespace(**BASE_PATCH), task_cfg=SimpleNamespace(**TASK), encoder_mask_emb=torch.zeros(1)
    )
    counts, grid, batches = np.zeros(96), Grid(1, 12, 8), 1500
    for _ in range(batches):
        _, masked, number = MAE_AST.forward_mask(theirs, torch.zeros(1, 96, 1), None)
        counts[masked[0]] += 1
    assert number == num_masked(96, 0.75)
    ours = removal_frequency(chunk_official, grid, 0.75, generator(), batches).flatten().numpy()
    assert np.abs(counts / batches - ours).max() < 5 * (2 * 0.25 / batches) ** 0.5
