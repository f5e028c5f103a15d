"""Sounds that are computed from formulas: an unlimited corpus without recordings.

The idea is AudioPG's (arXiv 2606.14791), masked autoencoding on generated sound alone. The formulas are those of
textbooks, named where they stand, and the code and the distributions of the parameters are our own.

- `pretrain.synth.sounds`: what a sound is made of, and when its events begin.
- `pretrain.synth.tones`: pitched sounds: harmonic stacks, classical waveforms, voices, FM.
- `pretrain.synth.strikes`: damped modes (strings, bars, drums, bells) and clicks.
- `pretrain.synth.noises`: coloured and band-limited noise.
- `pretrain.synth.channel`: rooms, filters and levels.
"""
