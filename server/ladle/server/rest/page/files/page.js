// The status page: what is served, how it does, and a place to try it.
import { $, badge, element, showError } from "./dom.js";
import { exampleBody } from "./examples.js";
import { milliseconds, refreshModels, tensors } from "./models.js";
import { clearCanvas, draw, listenToCanvas, pictureInput, prepareCanvas, sample } from "./picture.js";
import { call, listenToSignIn, openWithToken, showProblem } from "./server.js";
import { copyButtons } from "./snippets.js";

const REFRESH_MS = 2000;
const MOST_ANSWER = 20000; // characters that are shown

const tried = { targets: new Map(), target: null, picture: null, example: null, asked: 0 };

// ---- what to try

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
  if (tried.picture) {
    prepareCanvas(tried.picture);
    clear();
  }
  prepareJson();
}

function show(tab) {
  for (const name of ["picture", "json"]) {
    $(name).hidden = name !== tab;
    $(`tab-${name}`).setAttribute("aria-pressed", String(name === tab));
  }
}

async function predict(request) {
  const started = performance.now();
  const answer = await call(request.path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: request.body,
  });
  return { ...answer, took_ms: performance.now() - started };
}

function requestTo({ model, version }, body) {
  return { path: `v1/models/${encodeURIComponent(model)}/versions/${version.version}:predict`, body };
}

function answeredIn(took) {
  return element("p", "dim small", `answered in ${milliseconds(took)}`);
}

// ---- a picture

function clear() {
  clearCanvas();
  tried.asked += 1;
  $("picture-result").replaceChildren(
    element("p", "dim", "Draw in the box, or drop a picture on it."));
}

async function take(file) {
  try {
    await draw(file);
    await predictPicture();
  } catch {
    showError($("picture-result"), `${file.name} is no picture that this browser can read`);
  }
}

async function predictPicture() {
  const asked = tried.asked += 1;
  const { target, picture } = tried;
  const result = $("picture-result");
  const body = JSON.stringify({ signature_name: picture.signature, instances: [sample()] });
  const request = requestTo(target, body);
  try {
    const answer = await predict(request);
    if (asked !== tried.asked) return; // a later one is on its way
    showPrediction(result, answer, target.version.classes);
    result.append(copyButtons(request));
  } catch (error) {
    if (asked === tried.asked) showError(result, error.message);
  }
}

function showPrediction(result, { body, took_ms: took }, classes) {
  const prediction = body.predictions[0];
  const scores = scoresOf(prediction);
  if (!scores) {
    const pre = element("pre", "mono json", shortened(JSON.stringify(prediction, null, 1)));
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

// ---- JSON

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
  tried.example = signature ? exampleBody(name, signature.inputs) : null;
  $("body").value = signature ? tried.example.shown : "{}";
  $("signature-about").textContent = signature
    ? `${tensors(signature.inputs)} → ${tensors(signature.outputs)}`
    : "This model has no signature that can be called.";
  const isLong = Boolean(signature) && tried.example.isLong;
  $("body-about").hidden = !isLong;
  if (isLong) {
    const numbers = tried.example.numbers.toLocaleString("en");
    $("body-about").textContent = `Shortened: as it stands, all ${numbers} zeros are sent.`;
  }
}

async function predictJson() {
  const result = $("json-result");
  const written = $("body").value;
  const isExample = tried.example && written === tried.example.shown;
  const request = requestTo(tried.target, isExample ? tried.example.whole() : written);
  try {
    const { text, took_ms: took } = await predict(request);
    result.replaceChildren(element("pre", "mono json", shortened(text)), answeredIn(took));
  } catch (error) {
    showError(result, error.message);
  }
  result.append(copyButtons(request));
}

function shortened(text) {
  if (text.length <= MOST_ANSWER) return text;
  return `${text.slice(0, MOST_ANSWER)} … (${text.length.toLocaleString("en")} characters)`;
}

// ---- keeping up

async function refresh() {
  try {
    const { body } = await call("status.json");
    showProblem(null);
    const { server, models, unloaded } = body;
    $("ready").textContent = server.ready ? "ready" : "not ready";
    $("ready").className = `badge ${server.ready ? "good" : "wait"}`;
    const transport = server.transport ? `, gRPC by ${server.transport}` : "";
    const workers = server.workers ? `, ${server.workers.ready} of ${server.workers.expected} workers` : "";
    $("about").textContent =
      `version ${server.version}${transport}${workers}, up for ${duration(server.uptime_s)}`;
    $("metrics").hidden = !server.metrics_path;
    $("metrics").href = server.metrics_path.slice(1);
    refreshModels(models, unloaded);
    refreshTargets(models);
  } catch (error) {
    showProblem(error);
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

listenToCanvas({ clear, changed: predictPicture, take });
$("file").addEventListener("change", () => {
  if ($("file").files.length) take($("file").files[0]);
  $("file").value = "";
});
$("clear").addEventListener("click", clear);
for (const id of ["centre", "invert"]) $(id).addEventListener("change", predictPicture);
$("try-model").addEventListener("change", choose);
$("tab-picture").addEventListener("click", () => show("picture"));
$("tab-json").addEventListener("click", () => show("json"));
$("signature").addEventListener("change", prepareBody);
$("send").addEventListener("click", predictJson);
for (const id of ["metrics", "openapi"]) openWithToken($(id));
listenToSignIn(refresh);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
keepUp();
