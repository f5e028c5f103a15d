"""Kernels that replace torch's own on a CPU, and what each of them saves.

The figures are CPU time with torch's own implementation divided by CPU time with ours: the median of seven rounds that
take turns, with the smallest and the largest, on one thread of an AMD EPYC (family 25, model 17). ``memory`` was
measured in processes that take turns, all others in one process. ``python tests/benchmarks/bench_cpu.py`` measures
them. A training step is forward, backward and AdamW on two clips of 10 s, 75 % masked, with the published dropout;
"encoding" runs a frozen encoder.

=============  =========================================  ====================  ====================
module         replaces                                   tiny                  base
=============  =========================================  ====================  ====================
`attention`    attention with dropout, training step      1.13 (0.74 to 1.16)   1.05 (1.00 to 1.08)
`dropout`      dropout, training step                     1.04 (0.97 to 1.05)   1.02 (1.01 to 1.07)
`linear`       MKL's matrix product, encoding             0.93 (0.69 to 1.04)   1.06 (1.04 to 1.07)
`linear`       MKL's matrix product, training step        0.99 (0.94 to 1.01)   1.00 (0.97 to 1.06)
`memory`       glibc's limits for reuse, training step    1.04 (0.96 to 1.10)   1.01 (1.00 to 1.05)
=============  =========================================  ====================  ====================

The machine also ran other work, and the ranges show its noise: most of them include 1. Only the gains of `linear` in
encoding and of `dropout` in training, both with the base model, were above 1 in every round. `linear` is used on AMD
processors only.
"""
