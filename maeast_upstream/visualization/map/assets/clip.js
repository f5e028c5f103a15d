"use strict";
// The clip that was clicked: its sound, its spectrogram, its neighbours.

const MAX_FETCHED_BYTES = 60e6; // larger linked files are not fetched for their spectrogram

/** Show a clip, prepare its sound and, if it is to be heard, play it. */
function showClip(row, heard) {
  $("results").hidden = true;
  $("empty").hidden = true;
  $("clip").hidden = false;
  $("clip").dataset.row = row;
  showClass(row);
  $("name").textContent = data.names[row];
  $("segment").textContent = heardText(row);
  const near = neighboursOf(row).map(({ row: other, cosine }) => clipButton(other, cosine));
  $("neighbours").replaceChildren(...near.map((button) => {
    const item = make("li");
    item.append(button);
    return item;
  }));
  document.querySelector("aside").scrollTop = 0;
  return sound(row, heard);
}

function showClass(row) {
  $("class").replaceChildren(swatch(groupOf(row)), make("span", described(row)));
}

function hideClip() {
  state.token++;
  prepare();
  $("empty").hidden = false;
  $("clip").hidden = true;
  delete $("clip").dataset.row;
}

/** Say that a clip is a segment of its file, or that the page holds only the beginning of the clip. */
function heardText(row) {
  const [start, end] = segmentOf(row), cutShort = data.audio === "embed" && end - start > data.held_s + 0.05;
  const position = start > 0 ? `at ${segmentText(row)} of its file` : "";
  return [cutShort ? `first ${data.held_s} s of ${seconds(end - start)} s` : "", position].filter(Boolean).join(", ");
}

/** Address of a linked file, with each part of its path escaped. */
function link(row) {
  const parts = [data.base, data.names[row]].join("/").split("/").map(pathBytes);
  const escaped = (part) => (typeof part === "string" ? encodeURIComponent(part) : `%${part[0].toString(16)}`);
  return parts.map((pieces) => pieces.map(escaped).join("")).join("/");
}

/** Load the clip, play it if it is to be heard, and draw its spectrogram, or say why not. */
async function sound(row, heard) {
  const token = ++state.token, held = $(`clip-${row}`);
  const say = (text) => {
    if (token !== state.token) return; // another clip was clicked since
    $("message").textContent = text;
    $("frame").hidden = $("playhead").hidden;
  };
  const bytes = held && fromBase64(held.textContent).buffer;
  prepare();
  if (!bytes && (data.audio !== "link" || data.base === null)) return say(whySilent(row));
  $("play").disabled = false;
  if (bytes) state.url = URL.createObjectURL(new Blob([bytes], { type: "audio/ogg" }));
  play(bytes ? state.url : link(row), bytes ? [0, NaN] : segmentOf(row), say, heard);
  if (!bytes && location.protocol === "file:") {
    return say("No spectrogram: a browser lets a page opened from disk play a linked file but not read it. Serve the " +
      "folder over HTTP, or make the page with --audio embed.");
  }
  try {
    const samples = await decode(bytes || (await fetched(row)));
    if (token === state.token) drawSpectrogram(bytes ? samples : cut(row, samples));
  } catch (error) {
    say(`No spectrogram: ${error.message}`);
  }
}

function whySilent(row) {
  if (data.unread[row]) return `No sound: ${data.unread[row]}`;
  return data.audio === "none" ? "This page was made without sound (--audio none)." : "No sound: the file is not on this machine.";
}

function prepare() {
  $("audio").pause();
  $("audio").removeAttribute("src");
  if (state.url) URL.revokeObjectURL(state.url);
  state.url = null;
  $("play").disabled = true;
  $("play").className = "";
  $("time").textContent = "";
  $("message").textContent = "";
  $("frame").hidden = false;
  state.length = null;
  wipe($("spectrogram"));
  $("playhead").hidden = true;
  $("seconds").replaceChildren();
}

/** Fetch the bytes of a linked file from a server. */
async function fetched(row) {
  const response = await fetch(link(row));
  if (!response.ok) throw new Error(`${data.names[row]} was not found (${response.status})`);
  if (Number(response.headers.get("content-length")) > MAX_FETCHED_BYTES) throw new Error("the file is too large to be read here");
  return response.arrayBuffer();
}

/** Cut the clip's samples out of those of its file. */
function cut(row, samples) {
  const [start, end] = segmentOf(row);
  return samples.subarray(start * RATE, Number.isNaN(end) ? undefined : end * RATE);
}

/** Load a file, and play it if it is to be heard, from start to end, in seconds; an unknown end follows from the samples, once they are decoded. */
function play(source, [start, end], say, heard) {
  const audio = $("audio");
  state.start = start;
  state.length = Number.isNaN(end) ? null : end - start;
  audio.onerror = () => {
    if (audio.hasAttribute("src")) say("No sound: the file was moved since, or this browser cannot decode it.");
  };
  audio.src = source;
  if (start) audio.currentTime = start;
  if (heard) audio.play().catch(() => {}); // browsers refuse before the first click on the page; onerror reports a file that cannot be read
}

function drawSpectrogram(samples) {
  paint($("spectrogram"), samples);
  state.length = samples.length / RATE;
  $("playhead").hidden = false;
  const step = tick(state.length), ticks = [];
  for (let second = 0; second <= state.length + 1e-9; second += step) {
    const label = make("span", `${Number(second.toFixed(2))}`);
    label.style.left = `${(100 * second) / state.length}%`;
    ticks.push(label);
  }
  ticks[0].textContent = "0 s";
  $("seconds").replaceChildren(...ticks.filter((label) => parseFloat(label.style.left) < 97));
}

function drawHertz() {
  $("hertz").replaceChildren(...[500, 1000, 2000, 4000].map((hertz) => {
    const label = make("span", hertz < 1000 ? "0.5k" : `${hertz / 1000}k`);
    label.style.bottom = `${100 * height(hertz)}%`;
    return label;
  }));
}

/** Move the playhead with the sound, and stop it where the clip ends inside its file. */
function follow() {
  const audio = $("audio"), passed = audio.currentTime - (state.start ?? 0);
  if (state.length) {
    if (passed > state.length + 0.05 && !audio.paused) audio.pause();
    $("playhead").style.left = `${100 * Math.min(Math.max(passed / state.length, 0), 1)}%`;
    $("time").textContent = `${seconds(Math.min(Math.max(passed, 0), state.length))} / ${seconds(state.length)} s`;
  }
  if (!audio.paused) requestAnimationFrame(follow);
}

function playFromStart() {
  if ($("play").disabled) return;
  $("audio").currentTime = state.start;
  $("audio").play().catch(() => {});
}

function toggle() {
  if ($("play").disabled) return;
  const audio = $("audio"), over = state.length && audio.currentTime - state.start >= state.length - 0.01;
  if (over) audio.currentTime = state.start;
  if (audio.paused) audio.play().catch(() => {});
  else audio.pause();
}

function listenToPlayer() {
  const audio = $("audio"), button = $("play");
  audio.onplay = () => { button.className = "playing"; follow(); };
  audio.onpause = audio.onended = () => { button.className = ""; follow(); };
  audio.onseeked = follow;
  button.onclick = toggle;
  $("picture").onclick = (event) => {
    if (!state.length) return;
    audio.currentTime = state.start + (event.offsetX / $("picture").clientWidth) * state.length;
    audio.play().catch(() => {});
  };
}
