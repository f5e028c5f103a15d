"use strict";
// Samples of a clip, and the picture of its log-mel spectrogram, with the windows and mels of frontend.py.

const RATE = 16000, WINDOW = 400, HOP = 160, FFT = 512, MELS = 128, LOW_HZ = 20;
const RANGE = 11; // natural logarithms of power from black to white: 48 dB
const MAGMA = ["000004", "1c1044", "4f127b", "812581", "b5367a", "e55064", "fb8761", "fec287", "fcfdbf"];

const mel = (hertz) => 1127 * Math.log(1 + hertz / 700);

/** Mono samples at 16 kHz of an audio file's bytes. */
async function decode(bytes) {
  const audio = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes);
  const samples = new Float32Array(audio.length);
  for (let channel = 0; channel < audio.numberOfChannels; channel++) {
    audio.getChannelData(channel).forEach((value, i) => { samples[i] += value / audio.numberOfChannels; });
  }
  return samples;
}

/** In place: the discrete Fourier transform of FFT complex numbers. */
function transform(real, imag) {
  for (let i = 1, j = 0; i < FFT; i++) {
    let bit = FFT >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imag[i], imag[j]] = [imag[j], imag[i]];
    }
  }
  for (let size = 2; size <= FFT; size *= 2) {
    for (let k = 0; k < size / 2; k++) {
      const cos = Math.cos((2 * Math.PI * k) / size), sin = -Math.sin((2 * Math.PI * k) / size);
      for (let a = k; a < FFT; a += size) {
        const b = a + size / 2;
        const re = real[b] * cos - imag[b] * sin, im = real[b] * sin + imag[b] * cos;
        real[b] = real[a] - re; imag[b] = imag[a] - im;
        real[a] += re; imag[a] += im;
      }
    }
  }
}

/** For each mel bin the weights of the FFT bins: triangles, evenly spaced in mel from 20 Hz to 8 kHz. */
function melBanks() {
  const low = mel(LOW_HZ), step = (mel(RATE / 2) - low) / (MELS + 1);
  return Array.from({ length: MELS }, (_, m) => {
    const weights = [];
    for (let bin = 0; bin < FFT / 2; bin++) {
      const place = (mel((bin * RATE) / FFT) - low) / step - m;
      const weight = Math.min(place, 2 - place);
      if (weight > 0) weights.push([bin, weight]);
    }
    return weights;
  });
}

/** {frames, values}: values[m * frames + t] is the log energy of mel bin m in frame t. */
function logMel(samples) {
  const frames = Math.max(1, 1 + Math.floor((samples.length - WINDOW) / HOP));
  const values = new Float32Array(MELS * frames), banks = melBanks();
  const real = new Float64Array(FFT), imag = new Float64Array(FFT);
  for (let t = 0; t < frames; t++) {
    real.fill(0); imag.fill(0);
    const piece = samples.subarray(t * HOP, t * HOP + WINDOW);
    const mean = piece.reduce((sum, value) => sum + value, 0) / Math.max(piece.length, 1);
    for (let i = 0; i < piece.length; i++) {
      const before = piece[Math.max(i - 1, 0)];
      const window = (0.5 - 0.5 * Math.cos((2 * Math.PI * i) / (WINDOW - 1))) ** 0.85;
      real[i] = (piece[i] - mean - 0.97 * (before - mean)) * window;
    }
    transform(real, imag);
    banks.forEach((weights, m) => {
      let energy = 0;
      for (const [bin, weight] of weights) energy += weight * (real[bin] ** 2 + imag[bin] ** 2);
      values[m * frames + t] = Math.log(Math.max(energy, 1.2e-7));
    });
  }
  return { frames, values };
}

/** 256 colours from black over red to white. */
function palette() {
  const stops = MAGMA.map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, i) => {
    const place = (i / 255) * (stops.length - 1), left = Math.min(Math.floor(place), stops.length - 2);
    return stops[left].map((value, c) => value + (stops[left + 1][c] - value) * (place - left));
  });
}

/** Paint the spectrogram of the samples over the whole canvas. */
function paint(canvas, samples) {
  const { frames, values } = logMel(samples), colours = palette();
  const top = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const small = new OffscreenCanvas(frames, MELS), context = small.getContext("2d");
  const image = context.createImageData(frames, MELS);
  for (let m = 0; m < MELS; m++) {
    for (let t = 0; t < frames; t++) {
      const level = 1 + (values[m * frames + t] - top) / RANGE;
      const pixel = 4 * ((MELS - 1 - m) * frames + t);
      image.data.set(colours[Math.round(255 * Math.min(Math.max(level, 0), 1))], pixel);
      image.data[pixel + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  wipe(canvas).drawImage(small, 0, 0, canvas.width, canvas.height);
}

/** An empty canvas, as fine as the screen. */
function wipe(canvas) {
  canvas.width = canvas.clientWidth * devicePixelRatio;
  canvas.height = canvas.clientHeight * devicePixelRatio;
  return canvas.getContext("2d");
}

/** Where a frequency stands in the picture: 0 at its foot, 1 at its top. */
const height = (hertz) => (mel(hertz) - mel(LOW_HZ)) / (mel(RATE / 2) - mel(LOW_HZ));

/** A round distance of ticks, so that at most six fit. */
const tick = (seconds) => [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10].find((step) => seconds / step <= 6) ?? seconds / 6;
