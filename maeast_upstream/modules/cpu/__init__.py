"""Kernels that replace torch's own on a CPU, and what each of them saves.

The figures are CPU time with torch's own implementation divided by CPU time with ours: the median of seven rounds that
take turns in one process, with the smallest and the largest, on one thread of an AMD EPYC (family 25, model 17) that
also ran other work. ``python tests/benchmarks/bench_cpu.py`` measures them. A training step is forward, backward and
AdamW on two clips of 10 s, 75 % masked, with the published dropout; "encoding" runs a frozen encoder.

=============  =========================================  ====================  ====================
module         replaces                                   tiny                  base
=============  =========================================  ====================  ====================
`attention`    attention with dropout, training step      1.13 (0.74 to 1.16)   1.05 (1.00 to 1.08)
`dropout`      dropout, training step                     1.04 (0.97 to 1.05)   1.02 (1.01 to 1.07)
`linear`       MKL's matrix product, encoding             0.93 (0.69 to 1.04)   1.06 (1.04 to 1.07)
`memory`       glibc's limits for reuse, training step    1.04 (0.96 to 1.10)   1.01 (1.00 to 1.05)
=============  =========================================  ====================  ====================

Each saves at least 4 % for one of the two sizes. `linear` is used on AMD processors only, where MKL is slow.
"""
