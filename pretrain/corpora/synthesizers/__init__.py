"""Speech and notes from installed synthesizers, for `pretrain.corpora.synthesized`."""
