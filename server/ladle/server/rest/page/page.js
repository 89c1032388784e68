// The status page. Everything from the server goes into the page as text, never as markup.
"use strict";

const REFRESH_MS = 2000;
const HISTORY = 60; // points in a chart
const TOKEN = "ladle-token";
const $ = (id) => document.getElementById(id);

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children.map((child) => child instanceof Node ? child : String(child)));
  return made;
}

function badge(text, kind) {
  return element("span", `badge ${kind || ""}`, text);
}

// ---- talking to the server

function headers(more) {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { ...more, Authorization: `Bearer ${token}` } : { ...more };
}

// JSON as the server writes it may hold NaN and infinities, which JSON.parse refuses.
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    const finite = /"(?:[^"\\]|\\.)*"|-?Infinity|NaN/g;
    return JSON.parse(text.replace(finite, (found) => found[0] === '"' ? found : "null"));
  }
}

async function call(path, options) {
  const response = await fetch(path, { cache: "no-store", ...options });
  const text = await response.text();
  let body;
  try {
    body = parse(text);
  } catch {
    body = { error: text.slice(0, 500) || `status ${response.status}` };
  }
  if (!response.ok) {
    const error = new Error(body.error || `status ${response.status}`);
    error.status = response.status;
    throw error;
  }
  return { body, text };
}

async function predict(target, body) {
  const model = encodeURIComponent(target.model);
  const started = performance.now();
  const answer = await call(`v1/models/${model}/versions/${target.version.version}:predict`, {
    method: "POST",
    headers: headers({ "Content-Type": "application/json" }),
    body,
  });
  return { ...answer, took_ms: performance.now() - started };
}

// ---- models

const cards = new Map(); // by name: a function that brings the card up to date
const history = new Map(); // by name: requests/s of late

function refreshModels(models) {
  for (const [name, card] of cards) {
    if (!models.some((model) => model.name === name)) {
      card.root.remove();
      cards.delete(name);
      history.delete(name);
    }
  }
  for (const model of models) {
    if (!cards.has(model.name)) {
      const card = modelCard(model.name);
      cards.set(model.name, card);
      $("models").append(card.root);
    }
    cards.get(model.name).update(model);
  }
  $("no-models").hidden = models.length > 0;
}

function modelCard(name) {
  const head = element("div", "row");
  const problem = element("p", "alert");
  const tiles = element("div", "tiles");
  const versions = element("div");
  const root = element("article", "card", head, problem, tiles, versions);
  root.dataset.model = name;
  let shown = "";
  return {
    root,
    update(model) {
      const state = model.available ? badge("available", "good") : badge("not available", "bad");
      head.replaceChildren(element("h3", "", name), state);
      problem.hidden = !model.problem;
      problem.textContent = model.problem;
      tiles.replaceChildren(...loadTiles(name, model.load));
      const now = JSON.stringify(model.versions);
      if (now !== shown) { // else what is unfolded would fold up again
        versions.replaceChildren(versionTable(model.versions));
        shown = now;
      }
    },
  };
}

function loadTiles(name, load) {
  if (!load) return [];
  const rates = history.get(name) || [];
  rates.push(load.requests_per_s);
  history.set(name, rates.slice(-HISTORY));
  const tile = (value, what) => element("div", "tile", element("b", "", value), element("span", "", what));
  const made = [
    tile(amount(load.requests_per_s), "requests/s"),
    tile(milliseconds(load.p50_ms), "median latency"),
    tile(milliseconds(load.p95_ms), "95th percentile"),
    tile(milliseconds(load.p99_ms), "99th percentile"),
    tile(amount(load.queue_requests), "in queue"),
    tile(amount(load.in_flight), "in flight"),
    tile(amount(load.failures_per_s), "failures/s"),
  ];
  const chart = element("div", "tile chart", sparkline(history.get(name)));
  chart.append(element("span", "", "requests/s, last two minutes"));
  return [...made, chart];
}

function sparkline(values) {
  const svg = (tag) => document.createElementNS("http://www.w3.org/2000/svg", tag);
  const root = svg("svg");
  root.setAttribute("class", "spark");
  root.setAttribute("viewBox", `0 0 ${HISTORY - 1} 44`);
  root.setAttribute("preserveAspectRatio", "none");
  root.setAttribute("aria-hidden", "true");
  const most = Math.max(1, ...values);
  const first = HISTORY - values.length;
  const points = values.map((value, i) => `${first + i},${(42 - 40 * value / most).toFixed(1)}`);
  const area = svg("polygon");
  area.setAttribute("points", [`${first},44`, ...points, `${HISTORY - 1},44`].join(" "));
  const line = svg("polyline");
  line.setAttribute("points", points.join(" "));
  root.append(area, line);
  return root;
}

const STATES = { AVAILABLE: "good", START: "wait", LOADING: "wait", UNLOADING: "wait" };

function versionTable(versions) {
  if (!versions.length) return element("p", "dim", "No versions are there yet.");
  const titles = ["Version", "State", "Labels", "Signatures"].map((title) => element("th", "", title));
  const body = element("tbody", "");
  for (const version of versions) {
    const failed = version.error_code !== "OK";
    const state = element("td", "", badge(version.state, failed ? "bad" : STATES[version.state]));
    const details = element("td", "");
    if (failed) details.append(element("p", "alert small", `${version.error_code}: ${version.error}`));
    if (version.accuracy !== null) {
      details.append(element("p", "dim small", `accuracy ${(100 * version.accuracy).toFixed(1)} %`));
    }
    if (Object.keys(version.signatures).length) details.append(signatureList(version.signatures));
    const labels = element("td", "", ...version.labels.map((label) => badge(label, "label")));
    body.append(element("tr", "", element("td", "number", version.version), state, labels, details));
  }
  return element("table", "", element("thead", "", element("tr", "", ...titles)), body);
}

function signatureList(signatures) {
  const names = Object.keys(signatures);
  const details = element("details", "small", element("summary", "", names.join(", ")));
  for (const name of names) {
    const { inputs, outputs, batching } = signatures[name];
    const line = `${name}: ${tensors(inputs)} → ${tensors(outputs)}`;
    details.append(element("p", "mono", line));
    if (batching) details.append(element("p", "", `batches: ${batching.state} (${batching.reason})`));
  }
  return details;
}

function tensors(specs) {
  return Object.entries(specs).map(([alias, spec]) => `${alias} ${tensor(spec)}`).join(", ");
}

function tensor(spec) {
  return `${spec.dtype} ${spec.shape === null ? "[…]" : `[${spec.shape.join(", ")}]`}`;
}

function amount(value) {
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  return value >= 100 ? `${Math.round(value)} ms` : `${value.toPrecision(2)} ms`;
}

// ---- trying a prediction

const tried = { targets: new Map(), target: null, picture: null, drawn: false, asked: 0 };

function refreshTargets(models) {
  const targets = new Map();
  for (const model of models) {
    for (const version of model.versions) {
      if (version.state === "AVAILABLE") {
        targets.set(`${model.name} ${version.version}`, { model: model.name, version });
      }
    }
  }
  $("try").hidden = !targets.size;
  const same = JSON.stringify([...targets]) === JSON.stringify([...tried.targets]);
  if (same) return;
  tried.targets = targets;
  const chosen = $("try-model").value;
  $("try-model").replaceChildren(...[...targets].map(([key, target]) => {
    const option = element("option", "", `${target.model}, version ${target.version.version}`);
    option.value = key;
    return option;
  }));
  if (targets.has(chosen)) $("try-model").value = chosen;
  if (targets.size) choose();
}

function choose() {
  tried.target = tried.targets.get($("try-model").value);
  tried.picture = pictureInput(tried.target.version);
  $("tab-picture").disabled = !tried.picture;
  show(tried.picture ? "picture" : "json");
  if (tried.picture) prepareCanvas();
  prepareJson();
}

function show(tab) {
  for (const name of ["picture", "json"]) {
    $(name).hidden = name !== tab;
    $(`tab-${name}`).setAttribute("aria-pressed", String(name === tab));
  }
}

// The signature that takes pictures as pixels, by the model card: raw ones rather than normalised.
function pictureInput(version) {
  const scaling = version.normalization;
  if (!scaling) return null;
  for (const signature of ["serving_uint8", "serving_default"]) {
    const inputs = Object.entries((version.signatures[signature] || { inputs: {} }).inputs);
    if (inputs.length !== 1) continue;
    const [alias, { dtype, shape }] = inputs[0];
    const channels = shape && shape.length === 4 ? shape[3] : null;
    if (!shape || shape.length < 3 || shape.length > 4) continue;
    if (dtype !== "uint8" && dtype !== "float32") continue;
    if (channels !== null && channels !== 1 && channels !== 3) continue;
    const side = (size) => size > 0 ? size : 224;
    return { signature, alias, dtype, channels, scaling, height: side(shape[1]), width: side(shape[2]) };
  }
  return null;
}

function prepareCanvas() {
  const { height, width } = tried.picture;
  const canvas = $("canvas");
  canvas.width = Math.max(280, width);
  canvas.height = Math.round(canvas.width * height / width);
  $("preview").width = width;
  $("preview").height = height;
  const colour = tried.picture.channels === 3 ? "colour" : "grey";
  $("preview-about").textContent = `${height} × ${width}, ${colour}`;
  clear();
}

function clear() {
  tried.drawn = false;
  tried.asked += 1;
  for (const id of ["canvas", "preview"]) {
    const context = $(id).getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#000";
    context.fillRect(0, 0, $(id).width, $(id).height);
  }
  $("picture-result").replaceChildren(
    element("p", "dim", "Draw in the box, or drop a picture on it."));
}

function stroke(event) {
  const canvas = $("canvas");
  const context = canvas.getContext("2d");
  const scale = canvas.width / canvas.clientWidth;
  const at = { x: event.offsetX * scale, y: event.offsetY * scale };
  const from = stroke.last || at;
  context.strokeStyle = "#fff";
  context.lineWidth = canvas.width / 13;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(from.x, from.y);
  context.lineTo(at.x, at.y + 0.01); // a dot, where it does not move
  context.stroke();
  stroke.last = at;
}

function listenToCanvas() {
  const canvas = $("canvas");
  canvas.addEventListener("pointerdown", (event) => {
    if (!tried.drawn) {
      clear();
      tried.drawn = true;
    }
    canvas.setPointerCapture(event.pointerId);
    stroke.last = null;
    stroke.active = true;
    stroke(event);
  });
  canvas.addEventListener("pointermove", (event) => stroke.active && stroke(event));
  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, () => {
      if (stroke.active) predictPicture();
      stroke.active = false;
    });
  }
  canvas.addEventListener("dragover", (event) => {
    event.preventDefault();
    canvas.classList.add("over");
  });
  canvas.addEventListener("dragleave", () => canvas.classList.remove("over"));
  canvas.addEventListener("drop", (event) => {
    event.preventDefault();
    canvas.classList.remove("over");
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
  $("file").addEventListener("change", () => {
    if ($("file").files.length) take($("file").files[0]);
    $("file").value = "";
  });
  $("clear").addEventListener("click", clear);
  for (const id of ["centre", "invert"]) $(id).addEventListener("change", predictPicture);
}

async function take(file) {
  try {
    const bitmap = await createImageBitmap(file);
    clear();
    $("canvas").getContext("2d").drawImage(bitmap, 0, 0, $("canvas").width, $("canvas").height);
    await predictPicture();
  } catch {
    showError($("picture-result"), `${file.name} is no picture that this browser can read`);
  }
}

// Draws what the model gets on the preview, and returns it: one example, as nested lists.
function sample() {
  const { height, width, channels, dtype, scaling } = tried.picture;
  const source = $("canvas");
  const context = $("preview").getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  const box = tried.drawn && $("centre").checked ? inkBox(source) : null;
  if (box) {
    // As in the usual sets of digits: small ones fill their square, larger ones leave a margin.
    const fill = Math.min(height, width) <= 12 ? 1 : 20 / 28;
    const scale = fill * Math.min(width / box.width, height / box.height);
    const [w, h] = [box.width * scale, box.height * scale];
    context.drawImage(source, box.x, box.y, box.width, box.height, (width - w) / 2, (height - h) / 2, w, h);
  } else {
    context.drawImage(source, 0, 0, width, height);
  }
  const image = context.getImageData(0, 0, width, height);
  const inverted = $("invert").checked;
  for (let i = 0; i < image.data.length; i += 4) {
    const [r, g, b] = image.data.slice(i, i + 3).map((value) => inverted ? 255 - value : value);
    const grey = Math.round(0.299 * r + 0.587 * g + 0.114 * b);
    image.data.set(channels === 3 ? [r, g, b] : [grey, grey, grey], i);
  }
  context.putImageData(image, 0, 0);
  const number = (value, channel) => {
    const of = (field) => Array.isArray(field) ? field[channel] : field;
    const [offset, divisor] = [of(scaling.offset), of(scaling.divisor)];
    // Pixels that were divided by 16, as scikit-learn's digits, went up to 16.
    const most = Array.isArray(scaling.offset) || offset + divisor > 255 ? 255 : offset + divisor;
    const raw = value / 255 * (most >= 1 ? most : 255);
    return dtype === "uint8" ? Math.round(raw) : (raw - offset) / divisor;
  };
  const rows = [];
  for (let y = 0; y < height; y += 1) {
    const row = [];
    for (let x = 0; x < width; x += 1) {
      const at = 4 * (y * width + x);
      const pixel = Array.from({ length: channels || 1 }, (_, c) => number(image.data[at + c], c));
      row.push(channels === null ? pixel[0] : pixel);
    }
    rows.push(row);
  }
  return rows;
}

function inkBox(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let [left, top, right, bottom] = [canvas.width, canvas.height, -1, -1];
  for (let y = 0; y < canvas.height; y += 1) {
    for (let x = 0; x < canvas.width; x += 1) {
      if (data[4 * (y * canvas.width + x)] > 32) {
        left = Math.min(left, x);
        right = Math.max(right, x);
        top = Math.min(top, y);
        bottom = Math.max(bottom, y);
      }
    }
  }
  return right < 0 ? null : { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
}

async function predictPicture() {
  const asked = tried.asked += 1;
  const { target, picture } = tried;
  const result = $("picture-result");
  try {
    const body = JSON.stringify({ signature_name: picture.signature, instances: [sample()] });
    const answer = await predict(target, body);
    if (asked !== tried.asked) return; // a later one is on its way
    showPrediction(result, answer, target.version.classes);
  } catch (error) {
    if (asked === tried.asked) showError(result, error.message);
  }
}

function showPrediction(result, { body, took_ms: took }, classes) {
  const prediction = body.predictions[0];
  const scores = scoresOf(prediction);
  if (!scores) {
    const pre = element("pre", "mono", JSON.stringify(prediction, null, 1));
    result.replaceChildren(pre, answeredIn(took));
    return;
  }
  const named = scores.map((score, i) => ({ name: classes[i] ?? `class ${i}`, score }));
  const best = named.reduce((a, b) => b.score > a.score ? b : a);
  const listed = named.length > 12 ? named.sort((a, b) => b.score - a.score).slice(0, 10) : named;
  const probable = scores.every((score) => score >= 0 && score <= 1.0001);
  const most = Math.max(...scores.map(Math.abs), Number.MIN_VALUE);
  const bars = element("div", "bars", ...listed.map((one) => {
    const fill = element("div", "fill");
    fill.style.width = `${(100 * (probable ? one.score : Math.abs(one.score) / most)).toFixed(2)}%`;
    const value = probable ? `${(100 * one.score).toFixed(1)} %` : one.score.toPrecision(3);
    const name = element("span", "name", one.name);
    name.title = one.name;
    return element("div", one === best ? "bar best" : "bar", name,
      element("div", "track", fill), element("span", "value", value));
  }));
  result.replaceChildren(element("p", "answer", best.name), bars, answeredIn(took));
}

// The numbers of classes in a prediction, wherever a model has put them.
function scoresOf(prediction) {
  const isScores = (value) => Array.isArray(value) && value.length > 1
    && value.every((score) => typeof score === "number");
  if (isScores(prediction)) return prediction;
  if (prediction === null || typeof prediction !== "object") return null;
  for (const name of ["probabilities", "scores", ...Object.keys(prediction)]) {
    if (isScores(prediction[name])) return prediction[name];
  }
  return null;
}

function answeredIn(took) {
  return element("p", "dim small", `answered in ${milliseconds(took)}`);
}

function showError(result, message) {
  result.replaceChildren(element("p", "alert", message));
}

function prepareJson() {
  const { signatures } = tried.target.version;
  $("signature").replaceChildren(...Object.keys(signatures).map((name) => element("option", "", name)));
  if ("serving_default" in signatures) $("signature").value = "serving_default";
  $("json-result").replaceChildren();
  prepareBody();
}

function prepareBody() {
  const name = $("signature").value;
  const signature = tried.target.version.signatures[name];
  if (!signature) {
    $("signature-about").textContent = "This model has no signature that can be called.";
    $("body").value = "{}";
    return;
  }
  $("signature-about").textContent = `${tensors(signature.inputs)} → ${tensors(signature.outputs)}`;
  const examples = Object.entries(signature.inputs).map(([alias, spec]) => [alias, example(spec)]);
  const inputs = examples.length === 1 ? examples[0][1] : Object.fromEntries(examples);
  $("body").value = JSON.stringify({ signature_name: name, inputs });
}

// An array of a spec's dtype and shape, of the least size.
function example({ dtype, shape }) {
  const leaf = dtype === "string" ? "" : dtype === "bool" ? false : 0;
  const nest = (sizes) => sizes.length
    ? Array.from({ length: sizes[0] < 0 ? 1 : Math.min(sizes[0], 4096) }, () => nest(sizes.slice(1)))
    : leaf;
  return nest(shape || [-1]);
}

async function predictJson() {
  const result = $("json-result");
  try {
    const { text, took_ms: took } = await predict(tried.target, $("body").value);
    const shown = text.length > 100000 ? `${text.slice(0, 100000)} …` : text;
    result.replaceChildren(element("pre", "mono", shown), answeredIn(took));
  } catch (error) {
    showError(result, error.message);
  }
}

// ---- keeping up

async function refresh() {
  try {
    const { body } = await call("status.json", { headers: headers() });
    $("sign-in").hidden = $("problem").hidden = true;
    const { server, models } = body;
    $("ready").textContent = server.ready ? "ready" : "not ready";
    $("ready").className = `badge ${server.ready ? "good" : "wait"}`;
    const transport = server.transport ? `, gRPC by ${server.transport}` : "";
    $("about").textContent = `version ${server.version}${transport}, up for ${duration(server.uptime_s)}`;
    refreshModels(models);
    refreshTargets(models);
  } catch (error) {
    const unknown = error.status === 401;
    $("sign-in").hidden = !unknown;
    $("problem").hidden = unknown && !sessionStorage.getItem(TOKEN);
    $("problem").textContent = error.status ? error.message : "The server does not answer.";
    $("ready").textContent = error.status ? "no access" : "gone";
    $("ready").className = "badge bad";
  }
}

function duration(seconds) {
  for (const [unit, length] of [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]]) {
    const count = Math.floor(seconds / length);
    if (count >= 1) return `${count} ${unit}${count > 1 ? "s" : ""}`;
  }
  return "a moment";
}

async function keepUp() {
  if (!document.hidden) await refresh();
  setTimeout(keepUp, REFRESH_MS);
}

listenToCanvas();
$("try-model").addEventListener("change", choose);
$("tab-picture").addEventListener("click", () => show("picture"));
$("tab-json").addEventListener("click", () => show("json"));
$("signature").addEventListener("change", prepareBody);
$("send").addEventListener("click", predictJson);
$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, $("token").value);
  $("token").value = "";
  refresh();
});
document.addEventListener("visibilitychange", () => document.hidden || refresh());
keepUp();
