"use strict";
// labels.csv, written and read: columns path, label and, for segments of files, start_ms and end_ms.

const FORMULA = /^'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/; // as in storage/delimited.py: a spreadsheet would run it
const NUMBER = /^[+-]?\d+(\.\d*)?(e[+-]?\d+)?$/i;
const SEPARATORS = [",", ";", "\t", "|"];
const MAX_FILE_BYTES = 100e6;
const SAME_MS = 1; // times in milliseconds that differ by at most this are equal, as in labels.py
const TIME = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const BYTE = /\\x[89a-f][0-9a-f]/; // what textOf writes for a byte that is not UTF-8
const SEVERAL = ";"; // what joins the labels of a clip that has several

const asCell = (text) => (FORMULA.test(text) && !NUMBER.test(text) ? `'${text}` : text);
const fromCell = (text) => (text.startsWith("'") && FORMULA.test(text) ? text.slice(1) : text);
const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

/** The absolute path of a clip on the machine where the page was made, or its address. */
const fullPath = (row) => (data.folder === null ? data.names[row] : `${data.folder.replace(/\/$/, "")}/${data.names[row]}`);

/** The bytes of a path in a table, where \xe9 stands for a byte that is not UTF-8, see display.as_name. */
function pathBytes(text) {
  const parts = text.split(/\\x(5c|[89a-f][0-9a-f])/);
  return parts.map((part, i) => (i % 2 ? new Uint8Array([parseInt(part, 16)]) : part));
}

/** {text, isUtf8} of a file, with bytes that are not UTF-8 in the form \xe9. */
function textOf(bytes) {
  try {
    return { text: new TextDecoder("utf-8", { fatal: true }).decode(bytes), isUtf8: true };
  } catch {
    const wide = bytes[0] + bytes[1] === 0xfe + 0xff; // a byte order mark of UTF-16
    if (wide) return { text: new TextDecoder(bytes[0] === 0xff ? "utf-16le" : "utf-16be").decode(bytes), isUtf8: true };
    const utf8 = /[\x00-\x7f]+|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}|[\x80-\xff]/g;
    const binary = new TextDecoder("x-user-defined").decode(bytes).replace(/[\uf780-\uf7ff]/g, (c) => String.fromCharCode(c.charCodeAt(0) - 0xf700));
    const text = binary.replace(utf8, (found) => {
      if (found.length === 1) return found < "\x80" ? found : `\\x${found.charCodeAt(0).toString(16)}`;
      return new TextDecoder().decode(Uint8Array.from(found, (c) => c.charCodeAt(0)));
    });
    return { text, isUtf8: false };
  }
}

/** The lines of labels.csv as parts of a Blob. */
function* labelLines() {
  yield data.timed ? "path,label,start_ms,end_ms\n" : "path,label\n";
  const written = new Set(); // a table may list a clip twice, a labels.csv may not
  for (const row of [...labelled].sort((a, b) => a - b)) {
    const path = quoted(asCell(fullPath(row))), times = [data.segments[2 * row], data.segments[2 * row + 1]];
    const rest = [data.labelOf[row], ...(data.timed ? times.map((time) => (Number.isNaN(time) ? "" : String(time))) : [])];
    const line = `,${rest.map((value) => quoted(asCell(value))).join(",")}\n`;
    if (written.has(path + line)) continue;
    written.add(path + line);
    yield* pathBytes(path);
    yield line;
  }
}

function saveLabels() {
  const link = document.createElement("a"), url = URL.createObjectURL(new Blob([...labelLines()], { type: "text/csv" }));
  link.href = url;
  link.download = "labels.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  unsaved = false;
  keep();
  showChosen();
  announce(`${counted(labelled.size, "label")} written to labels.csv, in the folder of downloads`);
}

/** The cells of a CSV, a list per line that is not empty; a value may be quoted. Throws if a quoted value never ends. */
function cells(text, separator) {
  const rows = [];
  let row = [], value = "", isQuoted = false;
  const endRow = () => {
    row.push(value);
    if (row.some((cell) => cell.trim())) rows.push(row);
    [row, value] = [[], ""];
  };
  for (let i = 0; i < text.length; i++) {
    const letter = text[i];
    if (isQuoted && letter === '"' && text[i + 1] === '"') { value += '"'; i++; }
    else if (isQuoted && letter === '"') isQuoted = false;
    else if (isQuoted) value += letter;
    else if (letter === '"' && value === "") isQuoted = true;
    else if (letter === separator) { row.push(value); value = ""; }
    else if (letter === "\n") endRow();
    else if (letter !== "\r") value += letter;
  }
  if (isQuoted) throw new Error("a quotation mark that is never closed");
  endRow();
  return rows;
}

/** A time in milliseconds, NaN if the cell is empty; throws if it is no number. A table with semicolons may have decimal commas. */
function timeOf(cell, factor, separator) {
  const text = (cell ?? "").trim(), plain = separator === ";" && !text.includes(".") ? text.replace(",", ".") : text;
  if (!text) return NaN;
  if (!TIME.test(plain) || Number(plain) < 0) throw new Error(`expected a time of 0 or more, got ${text.slice(0, 40)}`);
  return Number(plain) * factor;
}

/** The label of a cell; throws if it has bytes that are not UTF-8, which only paths may have. */
function labelIn(cell, isUtf8) {
  if (!isUtf8 && BYTE.test(cell)) throw new Error(`the label ${cell.slice(0, 40)} is not in UTF-8; save the file as UTF-8`);
  return fromCell(cell.trim());
}

/** The rows of a labels.csv: {path, label, start, end}, where times are NaN if it has none; throws what is wrong. */
function readLabels({ text, isUtf8 }) {
  const plain = text.replace(/^\ufeff/, "").replace(/^"?sep=[,;\t|]"?\r?\n/i, ""), first = plain.split("\n", 1)[0].toLowerCase();
  const names = (separator) => (cells(first, separator)[0] ?? []).map((name) => name.trim());
  const separator = SEPARATORS.find((mark) => names(mark).includes("path")) ?? ",";
  const header = names(separator), [path, label] = ["path", "label"].map((name) => header.indexOf(name));
  if (path < 0 || label < 0) throw new Error(`expected columns path and label, got ${first.trim().slice(0, 100) || "nothing"}`);
  const [start, end] = ["start", "end"].map((name) => {
    const [ms, inSeconds] = [header.indexOf(`${name}_ms`), header.indexOf(name)];
    if (ms >= 0 && inSeconds >= 0) throw new Error(`both ${name} (in seconds) and ${name}_ms; keep one`);
    return ms < 0 ? [inSeconds, 1000] : [ms, 1];
  });
  return cells(plain, separator).slice(1).map((row, i) => {
    try {
      const [from, to] = [start, end].map(([column, factor]) => timeOf(row[column], factor, separator));
      return { path: fromCell((row[path] ?? "").trim()), label: labelIn(row[label] ?? "", isUtf8), start: from, end: to };
    } catch (error) {
      throw new Error(`row ${i + 1}: ${error.message}`);
    }
  });
}

/** Return a function from a path to its rows. A relative path, whose folder a page cannot know, is found by its end if that is unique. */
function rowFinder() {
  const byPath = new Map(), byName = new Map();
  const add = (map, key, value) => (map.has(key) ? map.get(key).push(value) : map.set(key, [value]));
  data.names.forEach((_, row) => add(byPath, fullPath(row), row));
  for (const path of byPath.keys()) add(byName, path.split("/").pop(), path);
  return (path) => {
    const tail = path.replace(/^(file:\/\/|(\.{1,2}\/)+)/, "");
    const ends = byPath.has(tail) ? [tail] : (byName.get(tail.split("/").pop()) ?? []).filter((full) => full.endsWith(`/${tail}`));
    return ends.length === 1 ? byPath.get(ends[0]) : [];
  };
}

/** Return [row, label] for each row of the page that a labels.csv names, and how many of its rows name none. */
function matched(listed) {
  const find = rowFinder(), labels = new Map();
  let others = 0;
  for (const { path, label, start, end } of listed) {
    const same = (time, given) => Number.isNaN(given) || Number.isNaN(time) || Math.abs(time - given) <= SAME_MS;
    const from = Number.isNaN(end) ? start : start || 0; // an end without a start is counted from the beginning of the file
    const rows = label ? find(path).filter((row) => same(data.segments[2 * row], from) && same(data.segments[2 * row + 1], end)) : [];
    if (!rows.length) others++;
    for (const row of rows) labels.set(row, (labels.get(row) ?? new Set()).add(label));
  }
  return { pairs: [...labels].map(([row, several]) => [row, [...several].join(SEVERAL)]), others };
}

async function loadLabels(file) {
  $("load").value = ""; // the same file can be chosen again
  try {
    if (file.size > MAX_FILE_BYTES) throw new Error(`larger than ${MAX_FILE_BYTES / 1e6} MB`);
    const listed = readLabels(textOf(new Uint8Array(await file.arrayBuffer())));
    const { pairs, others } = matched(listed);
    if (!pairs.length) throw new Error(`none of its ${counted(listed.length, "row")} is on this map`);
    const changed = setLabels(pairs);
    new Set(pairs.map(([, label]) => label)).forEach(remember);
    labelsChanged();
    const left = others ? `; ${counted(others, "row")} without a label or not on this map left out` : "";
    announce(`${counted(pairs.length, "label")} read, ${changed.toLocaleString("en")} of them new${left}`);
  } catch (error) {
    announce(`${file.name}: ${error.message}`);
  }
}
