"use strict";
// Samples of a clip, and the picture of its log-mel spectrogram, with the windows and mels of frontend.py.

const RATE = 16000, WINDOW = 400, HOP = 160, FFT = 512, MELS = 128, LOW_HZ = 20;
const RANGE = 11; // natural logarithms of power from black to white: 48 dB
const MAGMA = ["000004", "1c1044", "4f127b", "812581", "b5367a", "e55064", "fb8761", "fec287", "fcfdbf"];

const mel = (hertz) => 1127 * Math.log(1 + hertz / 700);

/** Decode the bytes of an audio file to mono samples at 16 kHz. */
async function decode(bytes) {
  const audio = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes);
  const samples = new Float32Array(audio.length);
  for (let channel = 0; channel < audio.numberOfChannels; channel++) {
    audio.getChannelData(channel).forEach((value, i) => { samples[i] += value / audio.numberOfChannels; });
  }
  return samples;
}

/** Compute the discrete Fourier transform of FFT complex numbers in place. */
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

/** Return the weights of the FFT bins for each mel bin: triangles, evenly spaced in mel from 20 Hz to 8 kHz. */
function melBanks() {
  const low = mel(LOW_HZ), step = (mel(RATE / 2) - low) / (MELS + 1);
  return Array.from({ length: MELS }, (_, m) => {
    const weights = [];
    for (let bin = 0; bin < FFT / 2; bin++) {
      const position = (mel((bin * RATE) / FFT) - low) / step - m;
      const weight = Math.min(position, 2 - position);
      if (weight > 0) weights.push([bin, weight]);
    }
    return weights;
  });
}

/** Return {frames, values}, where values[m * frames + t] is the log energy of mel bin m in frame t. */
function logMel(samples) {
  const frames = Math.max(1, 1 + Math.floor((samples.length - WINDOW) / HOP));
  const values = new Float32Array(MELS * frames), banks = melBanks();
  const real = new Float64Array(FFT), imag = new Float64Array(FFT);
  for (let t = 0; t < frames; t++) {
    real.fill(0); imag.fill(0);
    const frame = samples.subarray(t * HOP, t * HOP + WINDOW);
    const mean = frame.reduce((sum, value) => sum + value, 0) / Math.max(frame.length, 1);
    for (let i = 0; i < frame.length; i++) {
      const before = frame[Math.max(i - 1, 0)];
      const window = (0.5 - 0.5 * Math.cos((2 * Math.PI * i) / (WINDOW - 1))) ** 0.85;
      real[i] = (frame[i] - mean - 0.97 * (before - mean)) * window;
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

/** Return 256 colours from black through red to white. */
function palette() {
  const stops = MAGMA.map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, i) => {
    const position = (i / 255) * (stops.length - 1), left = Math.min(Math.floor(position), stops.length - 2);
    return stops[left].map((value, c) => value + (stops[left + 1][c] - value) * (position - left));
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

/** Empty the canvas and give it the resolution of the screen. */
function wipe(canvas) {
  canvas.width = canvas.clientWidth * devicePixelRatio;
  canvas.height = canvas.clientHeight * devicePixelRatio;
  return canvas.getContext("2d");
}

/** Position of a frequency in the picture, from 0 at the bottom to 1 at the top. */
const height = (hertz) => (mel(hertz) - mel(LOW_HZ)) / (mel(RATE / 2) - mel(LOW_HZ));

/** A round distance between ticks, so that at most six fit. */
const tick = (seconds) => [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10].find((step) => seconds / step <= 6) ?? seconds / 6;
