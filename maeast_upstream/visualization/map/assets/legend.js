"use strict";
// The legend with the choice of what colours show, and the search.

const MAX_RESULTS = 50;

function swatch(group) {
  const element = make("i", "", `mark ${group.shape}`);
  element.style.setProperty("--mark", group.colour);
  return element;
}

/** Colour the map by label, prediction, confidence, cluster or folder. */
function showView(kind) {
  state.view = grouped(kind);
  $("colour-by").value = kind;
  drawLegend();
  if (state.selected !== null) showClass(state.selected);
  return redraw();
}

function startLegend() {
  const kinds = kindsOfPage();
  $("colour-by").replaceChildren(...kinds.map((kind) => {
    const option = make("option", KINDS[kind][0]);
    option.value = kind;
    return option;
  }));
  $("colour-by").onchange = () => { showView($("colour-by").value); showQueue(); };
  $("colour-by").value = state.view.kind;
  $("show-all").onclick = () => show(() => true);
  $("show-none").onclick = () => show(() => false);
  drawLegend();
}

function drawLegend() {
  const { kind, groups, classes } = state.view;
  $("legend-title").textContent = KINDS[kind][1];
  $("classes").textContent = kind === "confidence" ? "" : classes.toLocaleString("en");
  $("legend").replaceChildren(...groups.map((group, number) => {
    const toggle = make("button", "", "toggle"), only = make("button", "only", "only"), item = make("li");
    toggle.type = only.type = "button";
    toggle.append(swatch(group), make("span", group.title, "text"));
    toggle.title = group.title;
    toggle.setAttribute("aria-pressed", String(group.shown));
    toggle.onclick = () => show((other, i) => (i === number ? !other.shown : other.shown));
    only.onclick = () => show((_, i) => i === number);
    only.setAttribute("aria-label", `show only ${group.title}`);
    item.append(toggle, only, make("span", group.rows.length.toLocaleString("en"), "count"));
    return item;
  }));
}

/** Show the groups for which the predicate is true, and hide the others. */
function show(predicate) {
  const { kind, groups } = state.view, shown = groups.map(predicate);
  const changed = shown.some((value, i) => value !== groups[i].shown), toggles = $("legend").querySelectorAll(".toggle");
  groups.forEach((group, i) => {
    group.shown = shown[i];
    if (shown[i]) hidden[kind].delete(group.name);
    else hidden[kind].add(group.name);
    toggles[i].setAttribute("aria-pressed", String(shown[i]));
  });
  return changed ? Plotly.restyle(plot, { visible: shown }) : null;
}

/** Create a button that selects a clip, with the mark of its group, its name and, if given, a value from 0 to 1. */
function clipButton(row, number = null) {
  const button = make("button", "", "row"), text = make("span", shortName(row), "text");
  button.type = "button";
  button.title = data.names[row];
  text.append(make("small", described(row)));
  button.append(swatch(groupOf(row)), text);
  if (number !== null) {
    const value = make("span", number.toFixed(2), "value");
    value.style.setProperty("--share", `${100 * Math.max(number, 0)}%`);
    button.append(value);
  }
  button.onclick = () => { reveal(row); select(row); };
  return button;
}

// --- the search ----------------------------------------------------------------------------------------------------

function search() {
  const query = $("search").value.trim().toLowerCase(), results = $("results");
  state.found = query ? matches(query) : [];
  const shown = state.found.slice(0, MAX_RESULTS), all = make("button", "select all", "only");
  const total = state.found.length.toLocaleString("en"), more = shown.length < state.found.length ? `, the first ${MAX_RESULTS}:` : "";
  const head = make("p", state.found.length ? `${total} found${more} ` : "nothing found");
  all.type = "button";
  all.onclick = () => { selectRows(state.found); results.hidden = true; };
  if (state.found.length) head.append(all);
  results.replaceChildren(head, ...shown.map((row) => clipButton(row)));
  results.hidden = !query;
  return mark();
}

/** Rows whose name, label, predicted class or folder has the text in it. */
function matches(query) {
  const hits = new Map();
  const hit = (text) => {
    if (!hits.has(text)) hits.set(text, text.toLowerCase().includes(query));
    return hits.get(text);
  };
  const kinds = ["label", "prediction", "folder"].filter((kind) => data.colouring[kind]);
  return [...data.names.keys()].filter((row) =>
    data.names[row].toLowerCase().includes(query) || kinds.some((kind) => hit(valueOf(kind, row) ?? "")));
}

function listenToSearch() {
  let waiting;
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(search, data.count > 5000 ? 200 : 60); };
  $("search").addEventListener("input", soon);
  $("search").addEventListener("focus", () => { $("results").hidden = !$("search").value.trim(); });
  $("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && state.found.length) { select(state.found[0]); plot.focus(); }
    if (event.key === "Escape") { $("search").value = ""; search(); plot.focus(); }
  });
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".search")) $("results").hidden = true;
  });
}
