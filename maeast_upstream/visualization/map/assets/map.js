"use strict";
// The map: plotly draws a trace per group; overlay.js draws the marks above it.

const WEBGL = Boolean(document.createElement("canvas").getContext("webgl")); // without it the map is drawn, but slower
const MARGIN = { l: 30, r: 24, t: 24, b: 54 };
const AIR = 0.06; // the share of the width and height that stays free around the points

function trace(group) {
  const size = data.count <= 300 ? 11 : data.count <= 3000 ? 8 : data.count <= 30000 ? 5 : 3.5;
  return {
    type: WEBGL ? "scattergl" : "scatter", mode: "markers", hoverinfo: "none", showlegend: false, visible: group.shown,
    x: Float32Array.from(group.rows, (row) => data.points[2 * row]),
    y: Float32Array.from(group.rows, (row) => data.points[2 * row + 1]),
    marker: {
      color: group.colour, symbol: group.shape, size, opacity: data.count <= 3000 ? 0.9 : 0.65,
      line: { width: data.count <= 3000 ? 1 : 0, color: "#ffffff" },
    },
  };
}

/** The range of a coordinate over all rows, so that the map stays in place when classes are hidden. */
function extent(coordinate) {
  let low = Infinity, high = -Infinity;
  for (let i = coordinate; i < data.points.length; i += 2) {
    low = Math.min(low, data.points[i]);
    high = Math.max(high, data.points[i]);
  }
  const air = AIR * (high - low) || 1;
  return [low - air, high + air];
}

async function drawMap() {
  const axis = { visible: false, fixedrange: false };
  const layout = {
    margin: MARGIN, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    xaxis: { ...axis, range: extent(0) }, yaxis: { ...axis, range: extent(1), scaleanchor: "x" },
    dragmode: "pan", hovermode: "closest", hoverdistance: 14,
  };
  plot = $("plot");
  const config = { scrollZoom: true, displayModeBar: false, responsive: true, doubleClick: "reset" };
  await Plotly.newPlot(plot, state.view.groups.map(trace), layout, config);
  const row = (event) => state.view.groups[event.points[0].curveNumber].rows[event.points[0].pointNumber];
  plot.on("plotly_click", (event) => select(row(event)));
  plot.on("plotly_hover", (event) => showTip(row(event), event.event));
  plot.on("plotly_unhover", () => { $("tip").hidden = true; });
  for (const event of ["plotly_relayouting", "plotly_relayout", "plotly_afterplot"]) plot.on(event, mark);
  [$("x-axis").textContent, $("y-axis").textContent] = data.axes;
  $("zoom-in").onclick = () => zoom(1 / 1.5);
  $("zoom-out").onclick = () => zoom(1.5);
  $("zoom-all").onclick = () => Plotly.relayout(plot, { "xaxis.range": extent(0), "yaxis.range": extent(1) });
}

/** Draw the groups of the view again; the zoom stays. */
const redraw = () => Plotly.react(plot, state.view.groups.map(trace), plot.layout);

function zoom(factor) {
  const { xaxis, yaxis } = plot._fullLayout;
  const scaled = ({ range: [a, b] }) => [(a + b) / 2 - ((b - a) / 2) * factor, (a + b) / 2 + ((b - a) / 2) * factor];
  return Plotly.relayout(plot, { "xaxis.range": scaled(xaxis), "yaxis.range": scaled(yaxis) });
}

/** Position of a row in the plot, in CSS pixels. */
function place(row) {
  const { xaxis, yaxis } = plot._fullLayout;
  const along = ({ range: [a, b] }, value) => (value - a) / (b - a);
  return [
    xaxis._offset + xaxis._length * along(xaxis, data.points[2 * row]),
    yaxis._offset + yaxis._length * (1 - along(yaxis, data.points[2 * row + 1])),
  ];
}

/** Move the map so that a row that lies outside comes to its centre. */
function reveal(row) {
  const { xaxis, yaxis } = plot._fullLayout, [x, y] = [data.points[2 * row], data.points[2 * row + 1]];
  const within = ({ range: [a, b] }, value) => value >= a && value <= b;
  if (within(xaxis, x) && within(yaxis, y)) return;
  const around = ({ range: [a, b] }, value) => [value - (b - a) / 2, value + (b - a) / 2];
  Plotly.relayout(plot, { "xaxis.range": around(xaxis, x), "yaxis.range": around(yaxis, y) });
}

/** The row whose point lies nearest to a position in the plot; null if none lies within some pixels of it. */
function rowAt([x, y], pixels = 14) {
  let nearest = null, least = pixels ** 2;
  for (const { shown, rows } of state.view.groups) {
    if (!shown) continue;
    for (const row of rows) {
      const [px, py] = place(row), distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance <= least) [nearest, least] = [row, distance];
    }
  }
  return nearest;
}

function showTip(row, { clientX, clientY }) {
  const tip = $("tip");
  tip.querySelector("b").textContent = shortName(row);
  tip.querySelector("span").textContent = described(row);
  tip.hidden = false;
  const { width, height: tall } = tip.getBoundingClientRect(), { right } = plot.getBoundingClientRect();
  tip.style.left = `${Math.max(clientX + width + 22 > right ? clientX - width - 14 : clientX + 14, 8)}px`;
  tip.style.top = `${clientY + tall + 22 > innerHeight ? clientY - tall - 12 : clientY + 14}px`;
}
