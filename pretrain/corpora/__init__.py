"""Audio that anybody can download, to pretrain on (`debian_audio`) and to measure by (`debian_probes`)."""
