sr = 44100
ksmps = 32
nchnls = 1
0dbfs = 1
seed 1

; p4: frequency in Hz, p5: amplitude, p6: brightness from 0 to 1
gi_sine ftgen 1, 0, 4096, 10, 1
gi_peaks ftgen 2, 0, 256, 10, 1, 0.5, 0.3
gi_strike ftgen 3, 0, 256, 5, 1, 256, 0.001

instr pluck
  asig pluck p5, p4, p4, 0, 1
  out asig * linsegr(1, p3, 1, 0.05, 0)
endin

instr harp
  asig wgpluck2 0.1 + 0.4 * p6, p5, p4, 0.8, 0.3 + 0.4 * p6
  out asig * linsegr(1, p3, 1, 0.1, 0)
endin

instr bowed
  kamp linseg 0, 0.05, p5, p3 - 0.1, p5, 0.05, 0
  asig wgbow kamp, p4, 2.5 + 0.8 * p6, 0.127, 5, 0.003, 1, 30
  out asig
endin

instr flute
  kamp linseg 0, 0.03, p5, p3 - 0.1, p5, 0.07, 0
  asig wgflute kamp, p4, 0.32, 0.05, 0.08, 0.05 + 0.15 * p6, 5, 0.02, 1, 30
  out asig
endin

instr reed
  kamp linseg 0, 0.03, p5, p3 - 0.1, p5, 0.07, 0
  asig wgclar kamp, p4, -0.35 + 0.1 * p6, 0.06, 0.08, 0.05 + 0.15 * p6, 5, 0.02, 1, 30
  out asig
endin

instr bell
  asig fmbell p5, p4, 0.5 + p6, 0.5 + p6, 0.003, 5, 1, 1, 1, 1, 1
  out asig * linsegr(1, p3, 1, 0.1, 0)
endin

instr rhodes
  asig fmrhode p5, p4, 4 + 12 * p6, 10, 0.003, 5, 1, 1, 1, 1, 1
  out asig * linsegr(1, p3, 1, 0.1, 0)
endin

instr wurlitzer
  asig fmwurlie p5, p4, 2 + 6 * p6, 1, 0.003, 5, 1, 1, 1, 1, 1
  out asig * linsegr(1, p3, 1, 0.1, 0)
endin

instr organ
  asig fmb3 p5, p4, 1 + 4 * p6, 3, 0.003, 5, 1, 1, 1, 1, 1
  out asig * linsegr(1, p3, 1, 0.05, 0)
endin

instr metal
  asig fmmetal p5, p4, 0.5 + p6, 0.5 + p6, 0.003, 5, 1, 1, 1, 1, 1
  out asig * linsegr(1, p3, 1, 0.05, 0)
endin

instr bar
  asig marimba p5, p4, 0.2 + 0.7 * p6, 0.56, 3, 5, 0.003, 1, 0.1, 0, 0
  out asig
endin

instr vibes
  asig vibes p5, p4, 0.2 + 0.7 * p6, 0.56, 3, 5, 0.003, 1, 0.1
  out asig
endin
