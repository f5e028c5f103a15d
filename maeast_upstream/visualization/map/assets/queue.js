"use strict";
// Clips without a label, the most uncertain first: margin sampling by the predictions that the page was made with.

const MAX_QUEUE_SHOWN = 100;

let queue = []; // rows by margin, the smallest first

function startQueue() {
  if (!data.margin) return;
  queue = [...data.margin.keys()].filter((row) => !Number.isNaN(data.margin[row])).sort((a, b) => data.margin[a] - data.margin[b]);
  $("queue").hidden = false;
  $("next").onclick = () => step(1);
  $("previous").onclick = () => step(-1);
  showQueue();
}

/** Select the next clip of the queue that has no label, or with -1 the one before. */
function step(direction) {
  let place = queue.indexOf(state.selected);
  if (place < 0 && direction < 0) place = queue.length;
  do place += direction; while (place >= 0 && place < queue.length && labelled.has(queue[place]));
  if (!(place >= 0 && place < queue.length)) return announce("No other clip without a label in this direction.");
  state.queued = queue[place];
  reveal(queue[place]);
  return select(queue[place]);
}

function showQueue() {
  if (!data.margin) return;
  const open = queue.filter((row) => !labelled.has(row));
  $("open").textContent = open.length.toLocaleString("en");
  $("uncertain").replaceChildren(...open.slice(0, MAX_QUEUE_SHOWN).map((row) => {
    const item = make("li"), button = clipButton(row, data.margin[row]);
    button.dataset.row = row;
    button.addEventListener("click", () => { state.queued = row; });
    item.append(button);
    return item;
  }));
  showQueuePlace();
}

/** Show which clip of the list is selected. */
function showQueuePlace() {
  for (const button of $("uncertain").querySelectorAll("button")) {
    if (Number(button.dataset.row) === state.selected) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}
