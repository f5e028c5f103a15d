"""`maeast embed --ray` on a cluster of two node processes on this machine."""

import errno
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from classifiers import random_classifier
from processes import (
    assert_same_tables,
    ended,
    make_clips,
    start,
    wait_until,
    whole_parts,
)

from maeast_upstream.cli import main
from maeast_upstream.extract import ray as cluster_module

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.slow
COUNT = 240


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield cluster
    cluster.shutdown()


def test_a_machine_that_dies_in_mid_run_costs_nothing(cluster, tmp_path):
    node = cluster.add_node(num_cpus=1)
    folder = make_clips(tmp_path, COUNT)
    alone, together = tmp_path / "alone.parquet", tmp_path / "together.parquet"
    assert ended(start(folder, alone))[0] == 3
    process = start(folder, together, "--ray", cluster.address)
    assert wait_until(lambda: whole_parts(together) > 2, 120)
    cluster.remove_node(node, allow_graceful=False)
    assert whole_parts(together) < COUNT // 8, "it was killed in mid-run"
    status, said = ended(process, 200)
    assert status == 3, said
    assert "Traceback" not in said
    assert_same_tables(alone, together, COUNT - COUNT // 40, atol=1e-4)


def test_predictions_of_a_cluster_are_those_of_one_process(cluster, tmp_path):
    random_classifier().save(tmp_path / "model")
    folder = make_clips(tmp_path, 20)
    options = ["predict", str(folder), "-m", str(tmp_path / "model"), "--top", "2", "-o"]
    alone, together = tmp_path / "alone.parquet", tmp_path / "together.parquet"
    assert main([*options, str(alone)]) == main([*options, str(together), "--ray", cluster.address]) == 3
    one, other = pq.read_table(alone), pq.read_table(together)
    assert len(one) == 38
    assert one.drop(["probability", "margin"]).equals(other.drop(["probability", "margin"]))
    np.testing.assert_allclose(one["probability"], other["probability"], atol=1e-4)


def test_a_disk_that_is_full_is_handed_back_from_a_machine_of_the_cluster(monkeypatch):
    def write_parts(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cluster_module, "write_parts", write_parts)
    actor = object.__new__(cluster_module.PartActor)
    actor.work = None
    (outcome,) = actor({"part": [pickle.dumps(None)]})["outcome"]
    assert pickle.loads(pickle.dumps(outcome)).errno == errno.ENOSPC


def test_a_password_of_a_cluster_is_not_repeated():
    for address in ("ray://user:S3CRET@127.0.0.1:1", "ray://user:S3CRET@127.0.0.1:x"):
        with pytest.raises(ValueError, match=r"--ray ray://user:\*\*\*@127") as error:
            cluster_module._check_answer(address)
        assert "S3CRET" not in str(error.value)


def test_no_cluster_at_an_address_is_one_line(tmp_path, capsys):
    folder = make_clips(tmp_path, 2)
    assert (
        main(
            [
                "embed",
                str(folder),
                "-o",
                str(tmp_path / "e.parquet"),
                "--ray",
                "127.0.0.1:1",
            ]
        )
        == 1
    )
    said = capsys.readouterr().err
    assert "error: --ray 127.0.0.1:1: no cluster there" in said
    assert "Traceback" not in said
