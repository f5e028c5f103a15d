"use strict";
// Puts the page together once all scripts are there.

async function start() {
  data = await load();
  document.title = $("title").textContent = data.title;
  const facts = [counted(data.count, "clip"), data.method, data.layer && `layer ${data.layer}`];
  $("summary").textContent = facts.filter(Boolean).join(" · ");
  startLabels();
  state.view = grouped(data.colour_by);
  await drawMap();
  startLegend();
  startQueue();
  drawHertz();
  listenToLasso();
  listenToSearch();
  listenToPlayer();
  listenToLabels();
  listenToKeys();
  plot.setAttribute("aria-label", `Map of ${counted(data.count, "clip")}. Arrow keys go from clip to clip, Enter plays, question mark lists all keys.`);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", mark);
  $("loading").hidden = true;
  document.body.dataset.state = "ready";
}

start().catch((error) => {
  document.body.dataset.state = "failed";
  $("loading").textContent = `The map cannot be drawn: ${error.message}. A current Chrome, Firefox or Safari is needed.`;
  throw error;
});
