"use strict";
// The map, its legend and the search. What comes from file names and labels goes into the page as textContent only.

const COLOURS = [
  "#3b7dd8", "#f0803c", "#2fa36b", "#d93a56", "#8a5cd6", "#d1a211", "#1fa9bd", "#e46bb4", "#7b8794", "#8c5a3c",
  "#3f3fb0", "#93c83d", "#ff9aa2", "#0b6e6e", "#7a1f3d", "#6fc7e8", "#b8a0ec", "#2b5d2b", "#b3329b", "#c9b48a",
];
const SHAPES = ["circle", "square", "diamond", "triangle-up"]; // the next one for every twenty classes, as there are twenty colours
const MAX_CLASSES = 200; // classes with a trace of their own; the rest share one
const MAX_RESULTS = 50, MAX_RINGS = 200;

const WEBGL = Boolean(document.createElement("canvas").getContext("webgl")); // without it the map is drawn, but slower

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

// --- the data of the page -------------------------------------------------------------------------------------------

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

async function unpack(id) {
  const stream = new Blob([fromBase64($(`data-${id}`).textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function load() {
  const text = async (id) => JSON.parse(new TextDecoder().decode(await unpack(id)));
  const found = {
    ...(await text("facts")),
    names: await text("names"),
    classOf: new Uint32Array(await unpack("class-of")),
    points: new Float32Array(await unpack("points")),
    segments: new Float32Array(await unpack("segments")),
    neighbours: new Uint32Array(await unpack("neighbours")),
    similarity: new Float32Array(await unpack("similarity")),
  };
  found.count = found.names.length;
  found.nearest = found.neighbours.length / found.count;
  found.groups = grouped(found);
  return found;
}

/** Return a group {name, rows, colour, shape, shown} for each class; beyond MAX_CLASSES the rare ones share a grey one. */
function grouped({ classes, classOf }) {
  const rows = classes.map(() => []);
  classOf.forEach((number, row) => rows[number].push(row));
  const frequent = rows.map((_, number) => number).sort((a, b) => rows[b].length - rows[a].length).slice(0, MAX_CLASSES);
  const groups = frequent.sort((a, b) => a - b).map((number, i) => ({
    name: classes[number], rows: rows[number], shown: true,
    colour: COLOURS[i % COLOURS.length], shape: SHAPES[Math.floor(i / COLOURS.length) % SHAPES.length],
  }));
  if (classes.length > frequent.length) {
    const kept = new Set(frequent), others = rows.filter((_, number) => !kept.has(number));
    groups.unshift({ name: `${others.length} rarer classes`, rows: others.flat(), shown: true, // first, so that it lies below
      colour: "#9aa0a8", shape: "circle" });
  }
  return groups;
}

const className = (row) => data.classes[data.classOf[row]];
const groupOf = (row) => data.groupOf[row];
const shortName = (row) => data.names[row].split("/").pop();

/** Begin and end of a clip in its file, in seconds; the end is NaN if the table does not say. */
const segmentOf = (row) => [data.segments[2 * row] / 1000, data.segments[2 * row + 1] / 1000];

const seconds = (value) => value.toFixed(value < 10 ? 2 : 1);

/** Return "2.00 – 12.0 s" if a clip is a segment of its file, otherwise its length. */
function segmentText(row) {
  const [start, end] = segmentOf(row);
  if (start > 0) return Number.isNaN(end) ? `from ${seconds(start)} s` : `${seconds(start)} – ${seconds(end)} s`;
  return Number.isNaN(end) ? "" : `${seconds(end)} s`;
}

// --- the map -------------------------------------------------------------------------------------------------------

function trace(group) {
  const size = data.count <= 300 ? 11 : data.count <= 3000 ? 8 : data.count <= 30000 ? 5 : 3.5;
  return {
    type: WEBGL ? "scattergl" : "scatter", mode: "markers", hoverinfo: "none", showlegend: false,
    x: Float32Array.from(group.rows, (row) => data.points[2 * row]),
    y: Float32Array.from(group.rows, (row) => data.points[2 * row + 1]),
    marker: {
      color: group.colour, symbol: group.shape, size, opacity: data.count <= 3000 ? 0.9 : 0.65,
      line: { width: data.count <= 3000 ? 1 : 0, color: "#ffffff" },
    },
  };
}

async function drawMap() {
  const axis = { visible: false, fixedrange: false };
  const layout = {
    margin: { l: 24, r: 24, t: 24, b: 34 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    xaxis: { ...axis }, yaxis: { ...axis, scaleanchor: "x" }, dragmode: "pan", hovermode: "closest", hoverdistance: 14,
  };
  plot = $("plot");
  const config = { scrollZoom: true, displayModeBar: false, responsive: true, doubleClick: "reset" };
  await Plotly.newPlot(plot, data.groups.map(trace), layout, config);
  const row = (event) => data.groups[event.points[0].curveNumber].rows[event.points[0].pointNumber];
  plot.on("plotly_click", (event) => select(row(event)));
  plot.on("plotly_hover", (event) => showTip(row(event), event.event));
  plot.on("plotly_unhover", () => { $("tip").hidden = true; });
}

function showTip(row, { clientX, clientY }) {
  const tip = $("tip");
  tip.querySelector("b").textContent = shortName(row);
  tip.querySelector("span").textContent = [className(row), segmentText(row)].filter(Boolean).join(" · ");
  tip.hidden = false;
  const { width, height: tall } = tip.getBoundingClientRect(), { right } = plot.getBoundingClientRect();
  tip.style.left = `${Math.max(clientX + width + 22 > right ? clientX - width - 14 : clientX + 14, 8)}px`;
  tip.style.top = `${clientY + tall + 22 > innerHeight ? clientY - tall - 12 : clientY + 14}px`;
}

/** Draw rings and lines over the points, as shapes, which plotly redraws without touching the points. */
function mark() {
  const { color: ink, accentColor } = getComputedStyle(document.body);
  const at = (row) => [data.points[2 * row], data.points[2 * row + 1]];
  const ring = (row, radius, width, colour) => ({
    type: "circle", xsizemode: "pixel", ysizemode: "pixel", xanchor: at(row)[0], yanchor: at(row)[1],
    x0: -radius, x1: radius, y0: -radius, y1: radius, line: { color: colour, width },
  });
  const shapes = state.found.slice(0, MAX_RINGS).map((row) => ring(row, 8, 2, accentColor));
  if (state.selected !== null) {
    const near = neighboursOf(state.selected), [x0, y0] = at(state.selected);
    for (const { row } of near) {
      const [x1, y1] = at(row);
      shapes.push({ type: "line", x0, y0, x1, y1, line: { color: ink, width: 1 }, opacity: 0.35 }, ring(row, 7, 1.2, ink));
    }
    shapes.push(ring(state.selected, 11, 3, ink));
  }
  return Plotly.relayout(plot, { shapes });
}

function neighboursOf(row) {
  return Array.from({ length: data.nearest }, (_, k) => ({
    row: data.neighbours[row * data.nearest + k], cosine: data.similarity[row * data.nearest + k],
  }));
}

// --- the legend and the search -------------------------------------------------------------------------------------

function swatch(group) {
  const element = make("i", "", `mark ${group.shape}`);
  element.style.setProperty("--mark", group.colour);
  return element;
}

function drawLegend() {
  for (const [number, group] of data.groups.entries()) {
    group.button = make("button", "", "toggle");
    group.button.type = "button";
    group.button.append(swatch(group), make("span", group.name, "text"));
    group.button.title = group.name;
    group.button.onclick = () => show((other, i) => (i === number ? !other.shown : other.shown));
    const only = make("button", "only", "only");
    only.onclick = () => show((_, i) => i === number);
    const item = make("li");
    item.append(group.button, only, make("span", group.rows.length.toLocaleString("en"), "count"));
    $("legend").append(item);
  }
  $("show-all").onclick = () => show(() => true);
  $("show-none").onclick = () => show(() => false);
  show(() => true);
}

/** Show the groups for which the predicate is true, and hide the others. */
function show(predicate) {
  const shown = data.groups.map(predicate), changed = shown.some((value, i) => value !== data.groups[i].shown);
  data.groups.forEach((group, i) => {
    group.shown = shown[i];
    group.button.setAttribute("aria-pressed", String(shown[i]));
  });
  return changed ? Plotly.restyle(plot, { visible: shown }) : null;
}

/** Create a button that selects a clip, with the mark of its class, its name and, if given, its similarity. */
function clipButton(row, cosine = null) {
  const button = make("button", "", "row"), text = make("span", shortName(row), "text");
  button.type = "button";
  button.title = data.names[row];
  text.append(make("small", [className(row), segmentText(row)].filter(Boolean).join(" · ")));
  button.append(swatch(groupOf(row)), text);
  if (cosine !== null) {
    const value = make("span", cosine.toFixed(2), "value");
    value.style.setProperty("--share", `${100 * Math.max(cosine, 0)}%`);
    button.append(value);
  }
  button.onclick = () => select(row);
  return button;
}

function search() {
  const query = $("search").value.trim().toLowerCase(), results = $("results");
  state.found = [];
  if (query) {
    const classes = data.classes.map((name) => name.toLowerCase().includes(query));
    data.names.forEach((name, row) => {
      if (classes[data.classOf[row]] || name.toLowerCase().includes(query)) state.found.push(row);
    });
  }
  const shown = state.found.slice(0, MAX_RESULTS);
  const total = state.found.length.toLocaleString("en"), more = shown.length < state.found.length ? `, the first ${MAX_RESULTS}:` : "";
  results.replaceChildren(
    make("p", state.found.length ? `${total} found${more}` : "nothing found"),
    ...shown.map((row) => clipButton(row)),
  );
  results.hidden = !query;
  return mark();
}

function listenToSearch() {
  let waiting;
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(search, data.count > 5000 ? 200 : 60); };
  $("search").addEventListener("input", soon);
  $("search").addEventListener("focus", () => { $("results").hidden = !$("search").value.trim(); });
  $("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && state.found.length) select(state.found[0]);
    if (event.key === "Escape") { $("search").value = ""; search(); }
  });
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".search")) $("results").hidden = true;
  });
}

// --- start ---------------------------------------------------------------------------------------------------------

async function start() {
  data = await load();
  data.groupOf = new Array(data.count);
  data.groups.forEach((group) => group.rows.forEach((row) => { data.groupOf[row] = group; }));
  document.title = $("title").textContent = data.title;
  const counted = [`${data.count.toLocaleString("en")} clips`, `${data.classes.length.toLocaleString("en")} classes`];
  $("summary").textContent = [...counted, data.method, data.layer && `layer ${data.layer}`].filter(Boolean).join(" · ");
  await drawMap();
  drawLegend();
  drawHertz();
  listenToSearch();
  listenToPlayer();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", mark);
  $("loading").hidden = true;
  document.body.dataset.state = "ready";
}

start().catch((error) => {
  document.body.dataset.state = "failed";
  $("loading").textContent = `The map cannot be drawn: ${error.message}. A current Chrome, Firefox or Safari is needed.`;
  throw error;
});
