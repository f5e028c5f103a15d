"use strict";
// The labels that are typed: of which clips, by which key again, what is undone, and what the browser keeps.

const MAX_LABEL = 200; // characters
const MAX_RECENT = 36; // labels with a key: as many as there are letters and digits
const MAX_STEPS = 200; // that can be undone
const MAX_KNOWN = 500; // labels that the field proposes
const STORE = () => `maeast-map-${data.digest}`;

const labelled = new Set(); // rows
const edits = new Map(); // row -> label or null, where it differs from the page as it was made
const recent = new Map(); // label -> its key, or "" where none is left
const steps = []; // of [row, label before] each, the last one to be undone first
let unsaved = false;

const labelledRows = () => labelled;

/** Remove control characters, line breaks and marks that turn the direction of text. */
function cleanLabel(text) {
  const plain = text.replace(/[\p{Cc}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069\s]+/gu, " ").trim();
  return [...plain].slice(0, MAX_LABEL).join("").trim();
}

function setLabel(row, label) {
  data.labelOf[row] = label;
  edits.set(row, label);
  if (label === null) labelled.delete(row);
  else labelled.add(row);
}

/** Set labels, [row, label] each, as one step that can be undone. */
function setLabels(pairs) {
  const changed = pairs.filter(([row, label]) => data.labelOf[row] !== label);
  if (!changed.length) return 0;
  steps.push(changed.map(([row]) => [row, data.labelOf[row]]));
  if (steps.length > MAX_STEPS) steps.shift();
  changed.forEach(([row, label]) => setLabel(row, label));
  return changed.length;
}

/** Give the selected clips a label; null removes theirs. */
function assign(text) {
  const label = text === null ? null : cleanLabel(text);
  if (label === "") return;
  if (!selection.size) return announce("Select clips first: click a point, or draw around points with Shift.");
  const rows = [...selection], follows = rows.length === 1 && state.queued === rows[0];
  if (setLabels(rows.map((row) => [row, label]))) unsaved = true;
  if (label !== null) remember(label);
  labelsChanged();
  announce(label === null ? `no label: ${counted(rows.length, "clip")}` : `${label}: ${counted(rows.length, "clip")}`);
  if (follows && label !== null) step(1);
}

function undo() {
  const before = steps.pop();
  if (!before) return announce("Nothing to undo.");
  before.forEach(([row, label]) => setLabel(row, label));
  unsaved = true;
  labelsChanged();
  announce(`undone: ${counted(before.length, "clip")}`);
}

/** Give a label a key: a letter of its own, otherwise a digit, otherwise any letter. */
function remember(label) {
  if (recent.has(label)) return;
  if (recent.size >= MAX_RECENT) recent.delete(recent.keys().next().value);
  const taken = new Set(recent.values()), plain = label.normalize("NFD").toLowerCase().replace(/[^a-z0-9]/g, "");
  recent.set(label, [...`${plain}1234567890abcdefghijklmnopqrstuvwxyz`].find((key) => !taken.has(key)) ?? "");
}

const labelOfKey = (key) => [...recent].find(([, own]) => own === key)?.[0];

/** Draw what depends on labels. */
function labelsChanged() {
  keep();
  if (state.view.kind === "label") showView("label");
  else mark();
  showRecent();
  showChosen();
  showQueue();
  if (state.selected !== null) showClass(state.selected);
}

function showChosen() {
  const count = selection.size;
  $("chosen").textContent = count ? `${count.toLocaleString("en")} selected` : "none selected";
  $("assign").disabled = !count;
  $("remove").disabled = ![...selection].some((row) => labelled.has(row));
  $("undo").disabled = !steps.length;
  $("save").disabled = !labelled.size;
  const total = counted(labelled.size, "label");
  $("kept").textContent = labelled.size || unsaved ? `${total}${unsaved ? ", not saved yet" : ""}` : "";
}

function showRecent() {
  $("recent").replaceChildren(...[...recent].map(([label, key]) => {
    const button = make("button", "", "chip"), item = make("li");
    button.type = "button";
    button.title = label;
    if (key) button.append(make("kbd", key));
    button.append(make("span", label, "text"));
    button.onclick = () => assign(label);
    item.append(button);
    return item;
  }));
  $("known").replaceChildren(...knownLabels().map((label) => {
    const option = make("option");
    option.value = label;
    return option;
  }));
}

/** Labels and predicted classes, for the field to propose. */
const knownLabels = () => [...new Set([...recent.keys(), ...(data.colouring.prediction?.classes ?? [])])].slice(0, MAX_KNOWN);

// --- what the browser keeps ----------------------------------------------------------------------------------------

/** Keep the edits in the browser, so that a reload of the page, or a later page of the same table, has them. */
function keep() {
  const labels = [...new Set(edits.values())], number = new Map(labels.map((label, i) => [label, i]));
  const rows = [...edits].map(([row, label]) => [row, number.get(label)]);
  try {
    localStorage.setItem(STORE(), JSON.stringify({ unsaved, given: data.given, labels, rows }));
  } catch {
    announce("This browser does not keep labels: save labels.csv before you leave.");
  }
}

/** Return the labels that the browser kept, [row, label] each; none if it has none or they are not of this form. */
function keptLabels() {
  try {
    const { unsaved: open, given, labels, rows } = JSON.parse(localStorage.getItem(STORE())) ?? { labels: [], rows: [] };
    if (!open && data.labelled && given !== data.given) return []; // they were saved, and the page was made with another labels.csv, which is newer
    unsaved = Boolean(open);
    return rows.map(([row, number]) => [row, labels[number]])
      .filter(([row, label]) => Number.isInteger(row) && row >= 0 && row < data.count && (label === null || typeof label === "string"));
  } catch {
    return [];
  }
}

function startLabels() {
  keptLabels().forEach(([row, label]) => setLabel(row, label));
  data.labelOf.forEach((label, row) => { if (label !== null) labelled.add(row); });
  const counts = new Map();
  for (const row of labelled) counts.set(data.labelOf[row], (counts.get(data.labelOf[row]) ?? 0) + 1);
  const frequent = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a));
  const predicted = data.colouring.prediction?.classes ?? [];
  [...frequent, ...predicted].slice(0, MAX_RECENT).sort().forEach(remember);
}

function listenToLabels() {
  const field = $("label");
  $("entry").addEventListener("submit", (event) => {
    event.preventDefault();
    assign(field.value);
    field.value = "";
    plot.focus();
  });
  $("remove").onclick = () => assign(null);
  $("undo").onclick = undo;
  $("save").onclick = saveLabels;
  $("load").onchange = () => { if ($("load").files.length) loadLabels($("load").files[0]); };
  addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
  showRecent();
  showChosen();
  if (unsaved) announce(`Back again, not saved yet: ${counted(edits.size, "label")}`);
}
