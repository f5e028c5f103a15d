"""What is changed in s3prl for the time of a run, and where its caches go."""

import argparse
import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from superb_sets import make

from maeast_upstream.integrations.s3prl.runner import (
    cuda_calls_without_cuda,
    prepare,
    redirect_caches,
    whole_checkpoints,
)
from maeast_upstream.integrations.s3prl.tasks import TASKS

pytest.importorskip("s3prl")
pytestmark = pytest.mark.s3prl


def test_only_s3prls_runner_gets_other_functions_for_files():
    importlib.import_module("maeast_upstream.superb")
    runner = importlib.import_module("s3prl.downstream.runner")
    save, remove = torch.save, os.remove
    with whole_checkpoints():
        assert (torch.save, os.remove) == (save, remove)
        assert runner.torch.save is not save
        assert runner.os.remove is not remove
        assert runner.torch.float16 is torch.float16
    assert (runner.torch, runner.os) == (torch, os)


@pytest.mark.parametrize("available", [True, False])
def test_cuda_calls_keep_a_tensor_on_a_cpu_during_a_run_and_nothing_of_torch_is_replaced(monkeypatch, available):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    before = torch.Tensor.cuda
    with cuda_calls_without_cuda():
        assert torch.Tensor.cuda is before
        if not available:
            assert (x := torch.ones(1)).cuda(non_blocking=True) is x
            y = torch.ones(2, requires_grad=True)
            (y.cuda() * 3).sum().backward()
            assert y.grad.tolist() == [3, 3]
    assert torch.Tensor.cuda is before


@pytest.mark.parametrize("task", ["voxceleb1", "sv_voxceleb1"])
def test_a_second_run_of_the_same_name_uses_its_own_data(tmp_path, task):
    pytest.importorskip("sox")
    importlib.import_module("maeast_upstream.superb")
    dataset = importlib.import_module(f"s3prl.downstream.{task}.dataset")
    before = {name: getattr(dataset, name) for name in ("CACHE_PATH", "__file__") if hasattr(dataset, name)}
    args = argparse.Namespace(
        hub="torch", upstream="fbank", downstream=task, mode="train", expdir=tmp_path / "run", evaluate_split="test"
    )
    try:
        places, found = [], []
        configs = {name: make(task, tmp_path / name) for name in ("one", "two")}
        for name in ("one", "two", "one"):
            prepare(args, config := configs[name])
            data = config["downstream_expert"]["datarc"]
            if task == "voxceleb1":
                places.append(Path(dataset.CACHE_PATH))
                own = dataset.SpeakerClassifiDataset("train", Path(data["file_path"]), data["meta_data"])
            else:
                places.append(Path(dataset.__file__).parent)
                roots = [f"{data['file_path']}/dev/wav"]
                own = dataset.SpeakerVerifi_train({"min_sec": 1}, ["Voxceleb1"], roots, "", n_jobs=1)
            found.append({Path(wav).relative_to(tmp_path).parts[0] for wav in own.dataset})
        assert found == [{"one"}, {"two"}, {"one"}]
        assert places[0] == places[2] != places[1]
        assert len(list((tmp_path / "run").iterdir())) == 2
        clip = TASKS[task].clips(configs["one"]).train[0]
        soundfile.write(clip, np.tile(soundfile.read(clip)[0], 2), 16000)
        prepare(args, configs["one"])
        assert len(list((tmp_path / "run").iterdir())) == 3
    finally:
        for name, value in before.items():
            setattr(dataset, name, value)


def test_sid_and_asv_cache_their_lists_in_the_experiments_folder(tmp_path):
    pytest.importorskip("sox")
    importlib.import_module("maeast_upstream.superb")
    sid = importlib.import_module("s3prl.downstream.voxceleb1.dataset")
    asv = importlib.import_module("s3prl.downstream.sv_voxceleb1.dataset")
    before = sid.CACHE_PATH, asv.__file__
    try:
        redirect_caches("voxceleb1", tmp_path / "a")
        redirect_caches("sv_voxceleb1", tmp_path / "b")
        redirect_caches("emotion", tmp_path / "c")
        assert str(tmp_path / "a") == sid.CACHE_PATH
        assert Path(asv.__file__).parent == tmp_path / "b"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    finally:
        sid.CACHE_PATH, asv.__file__ = before
