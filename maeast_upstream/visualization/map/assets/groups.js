"use strict";
// The groups of rows that share a colour: by label, predicted class, confidence, cluster or folder.

const COLOURS = [
  "#3b7dd8", "#f0803c", "#2fa36b", "#d93a56", "#8a5cd6", "#d1a211", "#1fa9bd", "#e46bb4", "#7b8794", "#8c5a3c",
  "#3f3fb0", "#93c83d", "#ff9aa2", "#0b6e6e", "#7a1f3d", "#6fc7e8", "#b8a0ec", "#2b5d2b", "#b3329b", "#c9b48a",
];
const SHAPES = ["circle", "square", "diamond", "triangle-up"]; // the next one for every twenty classes, as there are twenty colours
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#e8dc19"];
const GREY = "#9aa0a8";
const MAX_CLASSES = 200; // classes with a trace of their own; the rest share one

const KINDS = { // in the order of the control; the names of a colouring, of its groups, and of rows without a value
  label: ["label", "Labels", "no label"],
  prediction: ["predicted class", "Predictions", "no prediction"],
  confidence: ["confidence", "Confidence", "no prediction"],
  cluster: ["cluster", "Clusters", "no cluster"],
  folder: ["folder", "Folders", "no folder"],
};
const NO_VALUE = Symbol("no value"), RARE = Symbol("rare"); // names of groups that no class can have
const NOISE = "-1"; // the cluster of what HDBSCAN assigns to none

const looks = { cluster: new Map() }; // name of a class -> its number, which chooses its colour and never changes
looks.label = looks.prediction = looks.folder = new Map(); // a class has the same colour whether typed or predicted
const hidden = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, new Set()])); // names of groups

const groupOf = (row) => state.view.groupOf[row];

const kindsOfPage = () => Object.keys(KINDS).filter((kind) => kind === "confidence" ? data.probability : data.colouring[kind]);

/** The tenth that a probability lies in, as text. */
function tenth(row) {
  const value = data.probability[row];
  if (Number.isNaN(value)) return null;
  const low = Math.min(Math.floor(value * 10 + 1e-6), 9);
  return `${(low / 10).toFixed(1)} – ${((low + 1) / 10).toFixed(1)}`;
}

function look(kind, name) {
  if (kind === "confidence") return { colour: VIRIDIS[Math.round(parseFloat(name) * 10)], shape: "circle" };
  if (kind === "cluster" && name === NOISE) return { colour: GREY, shape: "circle" };
  const numbers = looks[kind];
  if (!numbers.has(name)) numbers.set(name, numbers.size);
  const number = numbers.get(name);
  return { colour: COLOURS[number % COLOURS.length], shape: SHAPES[Math.floor(number / COLOURS.length) % SHAPES.length] };
}

function sortedNames(kind, names) {
  if (kind === "cluster") return names.sort((a, b) => a - b);
  return kind === "confidence" ? names.sort().reverse() : names.sort();
}

/** Group the rows: {kind, groups, groupOf}; a group is {name, rows, colour, shape, shown}. Rare classes share a group. */
function grouped(kind) {
  const members = new Map(), without = [], value = kind === "confidence" ? tenth : (row) => valueOf(kind, row);
  for (let row = 0; row < data.count; row++) {
    const name = value(row);
    if (name === null) without.push(row);
    else if (members.has(name)) members.get(name).push(row);
    else members.set(name, [row]);
  }
  const order = [...members.keys()].sort((a, b) => members.get(b).length - members.get(a).length);
  const kept = sortedNames(kind, order.slice(0, MAX_CLASSES)), rare = order.slice(MAX_CLASSES);
  const groups = kept.map((name) => ({ name, rows: members.get(name), ...look(kind, name) }));
  for (const group of groups) group.title = kind === "cluster" ? (group.name === NOISE ? "noise" : `cluster ${group.name}`) : group.name;
  const grey = (name, title, rows) => groups.unshift({ name, title, rows, colour: GREY, shape: "circle" }); // first, so that it lies below
  if (rare.length) grey(RARE, `${rare.length.toLocaleString("en")} rarer classes`, rare.flatMap((name) => members.get(name)));
  if (without.length) grey(NO_VALUE, KINDS[kind][2], without);
  const of = new Array(data.count);
  for (const group of groups) {
    group.shown = !hidden[kind].has(group.name);
    for (const row of group.rows) of[row] = group;
  }
  return { kind, groups, groupOf: of, classes: members.size };
}
