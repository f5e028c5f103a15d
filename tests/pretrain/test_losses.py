import math

import pytest
import torch

from pretrain.losses import (
    classification_loss,
    clip_loss,
    cluster_loss,
    label_loss,
    normalize_patches,
    reconstruction_loss,
    teacher_loss,
)


def test_reconstruction_is_the_mean_squared_error():
    predicted, targets = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert torch.allclose(reconstruction_loss(predicted, targets), (predicted - targets).square().mean())


def test_classification_equals_a_plain_loop():
    predicted, targets = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    total = 0.0
    for clip in range(2):
        for i in range(5):
            logits = [float(predicted[clip, i] @ targets[clip, j]) for j in range(5)]
            total += math.log(sum(map(math.exp, logits))) - logits[i]
    assert abs(float(classification_loss(predicted, targets)) - total / 10) < 1e-5


def test_over_predictions_the_classification_is_that_of_the_code_of_ssast():
    """mpc of ast_models.py: rows of ``total`` are true patches, and the logarithm of the softmax runs along a row."""
    predicted, targets = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    nce = 0.0
    for clip in range(2):
        total = torch.mm(targets[clip], predicted[clip].T)
        nce += float(torch.log_softmax(total, dim=-1).diag().sum())
    ours = classification_loss(predicted, targets, over="predictions")
    assert float(ours) == pytest.approx(nce / (-1.0 * 2 * 5), abs=1e-6)
    assert abs(ours - classification_loss(predicted, targets)) > 0.01


@pytest.mark.parametrize("over", ["targets", "predictions"])
def test_a_padded_patch_is_neither_query_nor_candidate(over):
    predicted, targets = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    padding = torch.tensor([[False] * 5, [False, False, False, True, True]])
    alone = [
        classification_loss(predicted[i : i + 1, :n], targets[i : i + 1, :n], over=over) for i, n in ((0, 5), (1, 3))
    ]
    torch.testing.assert_close(classification_loss(predicted, targets, padding, over=over), sum(alone) / 2)


def test_clip_loss_equals_a_plain_loop():
    first, second = torch.randn(4, 6), torch.randn(4, 6)
    views = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    total = 0.0
    for i in range(8):
        logits = {j: float(views[i] @ views[j]) / 0.2 for j in range(8) if j != i}
        total += math.log(sum(map(math.exp, logits.values()))) - logits[(i + 4) % 8]
    assert abs(float(clip_loss(first, second, 0.2)) - total / 8) < 1e-5


def test_clip_loss_is_small_when_views_agree():
    views = 10 * torch.eye(4)
    assert clip_loss(views, views, 0.05) < 1e-3


def test_temperature_divides_the_dot_products():
    predicted, targets = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    colder = classification_loss(predicted, targets, temperature=0.2)
    torch.testing.assert_close(colder, classification_loss(5 * predicted, targets))


def test_normalised_patches_have_mean_0_and_deviation_1_and_silence_stays_finite():
    patches = 3 + 7 * torch.randn(2, 3, 256)
    patches[0, 0] = -15.9
    own = normalize_patches(patches)
    torch.testing.assert_close(own.mean(-1), torch.zeros(2, 3), atol=2e-3, rtol=0)
    torch.testing.assert_close(own[1].std(-1), torch.ones(3), atol=1e-3, rtol=0)
    assert own[0, 0].abs().max() < 0.1


def test_the_teacher_loss_is_the_mean_cosine_distance_of_rows_with_a_vector():
    predicted, vectors = torch.randn(5, 8, requires_grad=True), torch.randn(5, 8)
    vectors[1] = float("nan")
    vectors[3, 2] = float("inf")
    expected = torch.stack([1 - predicted[i] @ vectors[i] / predicted[i].norm() / vectors[i].norm() for i in (0, 2, 4)])
    loss = teacher_loss(predicted, vectors)
    torch.testing.assert_close(loss, expected.mean())
    torch.testing.assert_close(teacher_loss(predicted, 7 * vectors), expected.mean())
    loss.backward()
    assert predicted.grad.isfinite().all()
    assert not predicted.grad[[1, 3]].any()


def test_without_any_vector_the_teacher_loss_is_0_and_so_are_its_gradients():
    predicted = torch.randn(3, 4, requires_grad=True)
    loss = teacher_loss(predicted, torch.full((3, 4), float("nan")))
    loss.backward()
    assert loss == 0
    assert not predicted.grad.any()


def test_weighted_halves_have_the_mean_of_the_whole():
    predicted, vectors = torch.randn(6, 4), torch.randn(6, 4)
    vectors[[0, 1, 5]] = float("nan")
    weights = torch.tensor([0.0, 0.0, 2.0, 2.0, 2.0, 0.0])
    halves = [teacher_loss(predicted[part], vectors[part], weights[part]) for part in (slice(3), slice(3, None))]
    torch.testing.assert_close(sum(halves) / 2, teacher_loss(predicted, vectors))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_label_loss_of_classes_is_the_mean_of_known_rows(smoothing):
    logits, labels = torch.randn(5, 3, requires_grad=True), torch.tensor([2, -1, 0, 0, -1])
    spread = torch.full((5, 3), smoothing / 3)
    for row in (0, 2, 3):
        spread[row, labels[row]] += 1 - smoothing
    expected = -(spread * logits.log_softmax(1)).sum(1)[[0, 2, 3]].mean()
    loss = label_loss(logits, labels, smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert not logits.grad[[1, 4]].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_label_loss_of_several_labels_is_each_class_against_its_absence(smoothing):
    logits = torch.randn(3, 4, requires_grad=True)
    labels = torch.tensor([[1.0, 0, 1, 0], [float("nan")] * 4, [0, 0, 0, 1]])
    total = 0.0
    for row in (0, 2):
        for number in range(4):
            probability, label = logits[row, number].sigmoid(), labels[row, number] * (1 - smoothing) + smoothing / 2
            total = total - (label * probability.log() + (1 - label) * (1 - probability).log())
    loss = label_loss(logits, labels, smoothing=smoothing)
    torch.testing.assert_close(loss, total / 8)
    loss.backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[1].any()


def test_cluster_loss_and_gradients_equal_a_plain_loop_without_missing_tokens_and_padding():
    logits = torch.randn(3, 4, 5, requires_grad=True)
    targets = torch.tensor([[0, 4, -1, 2], [1, 1, 1, 1], [-1, -1, 3, -1]])
    padding = torch.zeros(3, 4, dtype=torch.bool)
    padding[1, 2:] = padding[2, 2] = True
    total = 0.0
    for clip, tokens in ((0, [0, 1, 3]), (1, [0, 1])):  # nothing is left of the third clip
        for token in tokens:
            row = logits[clip, token]
            total += (row.exp().sum().log() - row[targets[clip, token]]) / len(tokens) / 3
    (expected,) = torch.autograd.grad(total, logits)
    loss = cluster_loss(logits, targets, padding)
    (found,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, total)
    torch.testing.assert_close(found, expected)
