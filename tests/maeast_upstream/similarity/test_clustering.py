import numpy as np
import pytest
from map_tables import write_table
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import StandardScaler

from maeast_upstream.data.embeddings import read_embeddings
from maeast_upstream.similarity import cluster, clustering


@pytest.fixture(scope="module")
def blobs():
    """Five clouds of 3 to 7 times 40 points, and some points far from all; with their clouds."""
    rng = np.random.default_rng(0)
    sizes = [120, 160, 200, 240, 280]
    centres = 6 * rng.standard_normal((5, 60))
    cloud = np.repeat(np.arange(5), sizes)
    points = centres[cloud] + rng.standard_normal((1000, 60))
    order = rng.permutation(1020)
    vectors = np.concatenate([points, 40 * rng.standard_normal((20, 60))])[order].astype(np.float32)
    return vectors, np.concatenate([cloud, np.full(20, -1)])[order]


@pytest.fixture(scope="module")
def table(blobs, tmp_path_factory):
    vectors, _ = blobs
    return write_table(tmp_path_factory.mktemp("blobs") / "t.parquet", map(str, range(len(vectors))), vectors)


def plain(vectors):
    return PCA(50, random_state=0).fit_transform(StandardScaler().fit_transform(vectors))


def test_hdbscan_is_that_of_scikit_learn(blobs, table):
    expected = HDBSCAN(min_cluster_size=8, copy=True).fit_predict(plain(blobs[0]))
    found = cluster(table, min_size=8)
    assert len(found.counts) >= 5
    assert adjusted_rand_score(expected, found.cluster) == 1
    assert ((expected == -1) == (found.cluster == -1)).all()
    assert found.sampled == len(blobs[0])


def test_kmeans_is_that_of_scikit_learn(blobs, table):
    expected = KMeans(5, random_state=0).fit_predict(plain(blobs[0]))
    found = cluster(table, "kmeans", clusters=5)
    assert adjusted_rand_score(expected, found.cluster) == 1
    assert found.noise == 0


def test_clusters_are_counted_from_the_largest(table):
    found = cluster(table)
    assert found.counts.tolist() == sorted(found.counts.tolist(), reverse=True)
    assert found.counts.sum() + found.noise == len(found.cluster) == 1020


def test_a_representative_is_the_row_nearest_to_the_mean_of_its_cluster(blobs, table):
    found = cluster(table, "kmeans", clusters=5)
    reduced = plain(blobs[0])
    rows = np.flatnonzero(found.representative)
    assert sorted(found.cluster[rows]) == list(range(5))
    for row in rows:
        members = np.flatnonzero(found.cluster == found.cluster[row])
        distances = np.linalg.norm(reduced[members] - reduced[members].mean(0), axis=1)
        assert members[distances.argmin()] == row


@pytest.mark.parametrize("options", [{"min_size": 8}, {"method": "kmeans", "clusters": 5}])
def test_a_sample_of_a_large_table_finds_the_same_clouds(blobs, table, options, monkeypatch):
    monkeypatch.setattr(clustering, "SAMPLE_ROWS", 500)
    monkeypatch.setattr(clustering, "BATCH_ROWS", 100)
    found = cluster(table, **options)
    assert found.sampled == 500
    known = (blobs[1] != -1) & (found.cluster != -1)
    assert known.sum() > 800
    assert adjusted_rand_score(blobs[1][known], found.cluster[known]) > 0.95
    if "min_size" in options:
        assert (found.cluster[blobs[1] == -1] == -1).all()


def test_same_seed_gives_the_same_clusters_from_a_file_and_from_memory(table, monkeypatch):
    monkeypatch.setattr(clustering, "SAMPLE_ROWS", 300)
    first, second = cluster(table, seed=3), cluster(read_embeddings(table), seed=3)
    assert (first.cluster == second.cluster).all()
    assert (first.representative == second.representative).all()
    assert (first.cluster != cluster(table, seed=4).cluster).any()


def test_equal_rows_are_clustered_without_an_error(tmp_path):
    path = write_table(tmp_path / "t.parquet", "abcdefghij", np.ones((10, 4)))
    assert len(cluster(path).cluster) == 10
    assert cluster(path, "kmeans", clusters=3).counts.sum() == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dbscan"}, "hdbscan or kmeans, got 'dbscan'"),
        ({"method": "kmeans"}, "needs the number of clusters"),
        ({"method": "kmeans", "clusters": 1021}, "1021 clusters of 1020 rows"),
        ({"method": "kmeans", "clusters": 0}, "0 clusters"),
        ({"method": "kmeans", "clusters": 2.5}, "whole number"),
        ({"clusters": 3}, "goes with k-means"),
        ({"min_size": 1}, "at least 1 rows; expected from 2"),
        ({"min_size": 2000}, "to the table's 1020"),
    ],
)
def test_options_that_do_not_fit_are_refused(table, options, message):
    with pytest.raises(ValueError, match=message):
        cluster(table, **options)


def test_values_too_large_to_be_compared_are_refused(tmp_path):
    vectors = np.array([[3e38, 1], [3e38, 2], [-3e38, 3]], np.float32)
    with pytest.raises(ValueError, match="cannot be compared"):
        cluster(write_table(tmp_path / "t.parquet", "abc", vectors), min_size=2)
