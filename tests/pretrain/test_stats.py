import numpy as np
import torch

from maeast_upstream.frontend import Fbank
from maeast_upstream.packed import open_packed
from pretrain.config import DataConfig
from pretrain.data import CropBatches
from pretrain.stats import measure


def test_mean_and_deviation_are_those_of_all_values_at_once(packed):
    crops = CropBatches(open_packed(packed), DataConfig(crop_seconds=0.5, batch_clips=4), 1, seed=0)
    measured = measure(crops, Fbank(), num_batches=3)
    values = torch.cat([Fbank()(crops[step]).flatten() for step in range(3)]).double().numpy()
    assert measured.mean == np.round(values.mean(), 4)
    assert measured.std == np.round(values.std(), 4)
