"use strict";
// The data of the page, and what the other scripts share. Names and labels enter the page as textContent only.

const $ = (id) => document.getElementById(id);
const state = { selected: null, found: [], token: 0, url: null };
let data, plot;

/** Create an element with text and class. */
function make(tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = className;
  return element;
}

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

async function unpack(id) {
  const stream = new Blob([fromBase64($(`data-${id}`).textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** Read the blocks that page.py writes. */
async function load() {
  const text = async (id) => JSON.parse(new TextDecoder().decode(await unpack(id)));
  const found = {
    ...(await text("facts")),
    names: await text("names"),
    points: new Float32Array(await unpack("points")),
    segments: new Float64Array(await unpack("segments")),
    neighbours: new Uint32Array(await unpack("neighbours")),
    similarity: new Float32Array(await unpack("similarity")),
  };
  for (const colouring of found.colourings) colouring.classOf = new Uint32Array(await unpack(`class-of-${colouring.kind}`));
  found.colouring = Object.fromEntries(found.colourings.map((colouring) => [colouring.kind, colouring]));
  if (found.colouring.prediction) {
    found.probability = new Float32Array(await unpack("probability"));
    found.margin = new Float32Array(await unpack("margin"));
  }
  found.count = found.names.length;
  found.nearest = found.neighbours.length / found.count;
  const { classes, classOf } = found.colouring.label;
  found.labelOf = Array.from(classOf, (number) => classes[number] ?? null);
  return found;
}

/** The value of a row in a colouring; null if it has none. Labels change while the page is open. */
function valueOf(kind, row) {
  if (kind === "label") return data.labelOf[row];
  const { classes, classOf } = data.colouring[kind];
  return classes[classOf[row]] ?? null;
}

const counted = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

const shortName = (row) => data.names[row].split("/").pop();

/** Begin and end of a clip in its file, in seconds; the end is NaN if the table does not say. */
const segmentOf = (row) => [data.segments[2 * row] / 1000, data.segments[2 * row + 1] / 1000];

const seconds = (value) => value.toFixed(value < 10 ? 2 : 1);

/** Return "2.00 – 12.0 s" if a clip is a segment of its file, otherwise its length. */
function segmentText(row) {
  const [start, end] = segmentOf(row);
  if (start > 0) return Number.isNaN(end) ? `from ${seconds(start)} s` : `${seconds(start)} – ${seconds(end)} s`;
  if (Number.isNaN(end)) return "";
  return data.timed ? `0 – ${seconds(end)} s` : `${seconds(end)} s`;
}

/** Return what is known of a clip: its label, what was predicted, its segment. */
function described(row) {
  const predicted = data.probability && valueOf("prediction", row);
  const shown = state.view?.kind ?? "label";
  return [
    data.labelOf[row] ?? (["folder", "cluster"].includes(shown) ? groupOf(row).title : ""),
    predicted ? `predicted ${predicted} ${data.probability[row].toFixed(2)}` : "",
    segmentText(row),
  ].filter(Boolean).join(" · ");
}

function neighboursOf(row) {
  return Array.from({ length: data.nearest }, (_, k) => ({
    row: data.neighbours[row * data.nearest + k], cosine: data.similarity[row * data.nearest + k],
  }));
}

/** Say something for a moment, to screen readers too. */
function announce(text) {
  $("status").textContent = text;
  clearTimeout(announce.waiting);
  announce.waiting = setTimeout(() => { $("status").textContent = ""; }, 6000);
}
