"use strict";
// Everything that the keyboard does, and the page that lists it.

const KEYS = [
  ["← → ↑ ↓", "go to the next clip in this direction; with Shift, select it too"],
  ["Enter", "play the clip"],
  ["Space", "pause, and continue"],
  ["a – z, 0 – 9", "give the selected clips the label that has this key; another letter begins a new label"],
  ["F2", "type a label"],
  ["Delete", "remove the label"],
  ["Ctrl Z", "undo"],
  [". and ,", "the next and the previous uncertain clip"],
  ["Ctrl A", "select everything that is shown"],
  ["+ and −", "zoom"],
  ["/", "search"],
  ["Ctrl S", "save labels.csv"],
  ["Escape", "clear the selection"],
  ["?", "show these keys"],
];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

const ACTIONS = {
  Enter: playFromStart, " ": toggle, F2: typeLabel, Delete: () => assign(null), Backspace: () => assign(null),
  ".": () => step(1), ",": () => step(-1), "+": () => zoom(1 / 1.5), "-": () => zoom(1.5),
  "/": () => $("search").focus(), "?": showKeys, Escape: clearAll,
};
const CONTROLS = { z: undo, a: () => selectRows(shownRows()), s: () => { if (labelled.size) saveLabels(); } };

function typeLabel() {
  $("label").focus();
  $("label").select();
}

function showKeys() {
  if (!$("help").open) $("help").showModal();
}

/** End the lasso, or clear the selection. */
function clearAll() {
  if (lasso || lassoMode) {
    lasso = null;
    setLassoMode(false);
    return mark();
  }
  clearSelection();
}

/** Assign the label that has this key; a letter or digit that no label has begins a new one. */
function labelKey(key) {
  const label = labelOfKey(key.toLowerCase());
  if (label !== undefined && key === key.toLowerCase()) return assign(label);
  typeLabel();
  $("label").value = key;
}

/** Return what a key does, or undefined. */
function actionOf(event) {
  const { key } = event, isControl = event.ctrlKey || event.metaKey;
  if (isControl) return event.shiftKey ? undefined : CONTROLS[key.toLowerCase()];
  if (ARROWS[key]) return () => move(ARROWS[key], event.shiftKey);
  if (ACTIONS[key]) return ACTIONS[key];
  return /^[\p{L}\p{N}]$/u.test(key) ? () => labelKey(key) : undefined;
}

function listenToKeys() {
  $("keys").replaceChildren(...KEYS.map(([key, does]) => {
    const item = make("div");
    const term = make("dt");
    term.append(make("kbd", key));
    item.append(term, make("dd", does));
    return item;
  }));
  $("show-keys").onclick = showKeys;
  $("close-keys").onclick = () => $("help").close();
  $("label").addEventListener("keydown", (event) => { if (event.key === "Escape") plot.focus(); });
  document.addEventListener("keydown", (event) => {
    const { target, key } = event, saves = (event.ctrlKey || event.metaKey) && key.toLowerCase() === "s";
    if (event.defaultPrevented || event.isComposing || event.altKey || target.closest("dialog")) return;
    if (!saves && target.closest("input, select")) return;
    if ([" ", "Enter"].includes(key) && target.closest("button, label, summary")) return; // they have a use for it
    const action = actionOf(event);
    if (!action) return;
    event.preventDefault();
    action();
  });
}
