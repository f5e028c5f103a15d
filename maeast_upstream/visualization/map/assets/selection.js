"use strict";
// Which clips are selected: the one that is heard, and all that a label is typed for; and moving with the arrow keys.

const selection = new Set(); // rows; state.selected is the one whose clip is shown, or null

const shownRows = () => state.view.groups.filter(({ shown }) => shown).flatMap(({ rows }) => rows);

/** Select one clip, show it and, unless it is only passed by, play it. */
function select(row, heard = true) {
  selection.clear();
  selection.add(row);
  return focusRow(row, heard);
}

/** Show a clip without changing what else is selected. */
function focusRow(row, heard = true) {
  state.selected = row;
  selectionChanged();
  return showClip(row, heard);
}

/** Select several clips, or add them to those selected. */
function selectRows(rows, adds = false) {
  if (!adds) clearSelection();
  for (const row of rows) selection.add(row);
  if (selection.size === 1) return focusRow(...selection);
  selectionChanged();
  announce(selection.size ? `${counted(selection.size, "clip")} selected` : "no clip selected");
}

/** Add a clip to the selection, or remove it. */
function toggleRow(row) {
  if (!selection.delete(row)) {
    selection.add(row);
    return focusRow(row);
  }
  if (state.selected === row) state.selected = null;
  selectionChanged();
}

function clearSelection() {
  selection.clear();
  state.selected = null;
  hideClip();
  selectionChanged();
}

function selectionChanged() {
  mark();
  showChosen();
  showQueuePlace();
}

/** The neighbour of a row in a direction of the map, as [right, up]; null at the edge. */
function beside(from, [right, up]) {
  const at = (row) => [data.points[2 * row], data.points[2 * row + 1]], [x, y] = at(from);
  let nearest = null, least = Infinity;
  for (const row of shownRows()) {
    const [px, py] = at(row), ahead = (px - x) * right + (py - y) * up, aside = Math.abs((px - x) * up - (py - y) * right);
    let cost = ahead > 0 ? Math.hypot(ahead, aside) * (1 + aside / ahead) : Infinity; // what lies ahead counts as nearer
    if (ahead === 0 && aside === 0 && (right + up) * (row - from) > 0) cost = 0; // points in one place, in the order of rows
    const closer = cost < least || (cost === least && cost === 0 && Math.abs(row - from) < Math.abs(nearest - from));
    if (closer) [nearest, least] = [row, cost];
  }
  return nearest;
}

/** Move to the neighbour in a direction; from nothing, to the point in the middle of the map. */
function move(direction, adds) {
  const { width, height: tall } = plot.getBoundingClientRect();
  const from = state.selected, row = from === null ? rowAt([width / 2, tall / 2], Infinity) : beside(from, direction);
  if (row === null) return;
  reveal(row);
  if (!adds) return select(row, false);
  selection.add(row);
  return focusRow(row, false);
}
