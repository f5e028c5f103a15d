"""Audio that anybody can download: a corpus to pretrain on (`debian_audio`), and labelled sets (`debian_probes`)."""
