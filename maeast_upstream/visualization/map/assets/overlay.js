"use strict";
// What is drawn above the points, on a canvas that lies over plotly's: rings, lines to neighbours, the lasso. And the lasso itself.

const MAX_RINGS = 200; // of found clips
const MAX_DOTS = 20000; // of labelled clips and of the selection
const CLICK_PIXELS = 5; // a lasso that is smaller is a click

let lasso = null; // corners in CSS pixels while it is drawn
let lassoMode = false; // whether a drag without Shift or Ctrl draws it, too

/** Draw the marks, once before the next frame. */
function mark() {
  mark.waiting ??= requestAnimationFrame(() => { mark.waiting = null; drawMarks(); });
}

function drawMarks() {
  const pen = wipe($("overlay"));
  pen.scale(devicePixelRatio, devicePixelRatio);
  const style = getComputedStyle(document.body), ink = style.color, accent = style.accentColor;
  const ring = (row, radius, width, colour) => {
    const [x, y] = place(row);
    Object.assign(pen, { strokeStyle: colour, lineWidth: width });
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.stroke();
  };
  if (state.view.kind !== "label") drawDots(pen, ink);
  for (const row of state.found.slice(0, MAX_RINGS)) ring(row, 8, 2, accent);
  if (selection.size > 1) for (const row of [...selection].slice(0, MAX_DOTS)) ring(row, 6, 2, ink);
  if (state.selected !== null) drawNeighbours(pen, ink, ring);
  if (lasso) drawLasso(pen, accent);
}

/** Mark labelled rows by a dot, where colours show something else than labels. */
function drawDots(pen, ink) {
  pen.fillStyle = ink;
  const size = data.count <= 3000 ? 3 : 1; // smaller than the points, so that their colours stay visible
  for (const row of [...labelledRows()].slice(0, MAX_DOTS)) {
    const [x, y] = place(row);
    pen.fillRect(x - size / 2, y - size / 2, size, size);
  }
}

function drawNeighbours(pen, ink, ring) {
  const [x, y] = place(state.selected);
  for (const { row } of neighboursOf(state.selected)) {
    Object.assign(pen, { strokeStyle: ink, lineWidth: 1, globalAlpha: 0.35 });
    pen.beginPath();
    pen.moveTo(x, y);
    pen.lineTo(...place(row));
    pen.stroke();
    pen.globalAlpha = 1;
    ring(row, 7, 1.2, ink);
  }
  ring(state.selected, 11, 3, ink);
}

function drawLasso(pen, colour) {
  Object.assign(pen, { strokeStyle: colour, fillStyle: colour, lineWidth: 1.5 });
  pen.beginPath();
  lasso.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.closePath();
  pen.stroke();
  pen.globalAlpha = 0.12;
  pen.fill();
}

/** Whether a position lies inside a polygon: a ray from it crosses the sides an odd number of times. */
function inside([x, y], polygon) {
  let odd = false;
  polygon.forEach(([ax, ay], i) => {
    const [bx, by] = polygon[(i + 1) % polygon.length];
    if (ay > y !== by > y && x < ax + ((y - ay) / (by - ay)) * (bx - ax)) odd = !odd;
  });
  return odd;
}

const rowsIn = (polygon) => shownRows().filter((row) => inside(place(row), polygon));

function finishLasso(adds) {
  const [[x, y]] = lasso, path = lasso;
  lasso = null;
  if (path.every(([a, b]) => Math.hypot(a - x, b - y) < CLICK_PIXELS)) {
    const row = rowAt([x, y]);
    if (row !== null) adds ? toggleRow(row) : select(row);
  } else {
    selectRows(rowsIn(path), adds);
  }
  mark();
}

/** Draw the lasso with Shift, Ctrl or in its mode; these events must not reach plotly, which would move the map. */
function listenToLasso() {
  let adds = false;
  const position = ({ clientX, clientY }) => {
    const { left, top } = plot.getBoundingClientRect();
    return [clientX - left, clientY - top];
  };
  plot.addEventListener("pointerdown", (event) => {
    adds = event.shiftKey || event.ctrlKey || event.metaKey;
    if (!(adds || lassoMode) || event.button || !event.isPrimary) return;
    lasso = [position(event)];
    plot.setPointerCapture(event.pointerId);
  }, true);
  plot.addEventListener("pointermove", (event) => {
    if (!lasso) return;
    lasso.push(position(event));
    mark();
  }, true);
  plot.addEventListener("pointerup", () => { if (lasso) finishLasso(adds); }, true);
  plot.addEventListener("pointercancel", () => { lasso = null; mark(); }, true);
  for (const kind of ["mousedown", "touchstart"]) {
    plot.addEventListener(kind, (event) => { if (lasso) event.stopPropagation(); }, { capture: true, passive: true });
  }
  $("lasso").onclick = () => setLassoMode(!lassoMode);
}

function setLassoMode(on) {
  lassoMode = on;
  $("lasso").setAttribute("aria-pressed", String(on));
  plot.classList.toggle("lasso", on);
}
