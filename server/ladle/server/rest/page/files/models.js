// The cards of the models: what is served, and how it does.
import { badge, element, $ } from "./dom.js";

const HISTORY = 60; // points in a chart
const cards = new Map(); // by name: a function that brings the card up to date
const history = new Map(); // by name: requests/s of late

export function refreshModels(models, unloaded) {
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
  $("no-models").hidden = models.length + unloaded > 0;
  $("unloaded").hidden = !unloaded;
  const which = unloaded === 1 ? "1 model is" : `${unloaded.toLocaleString("en")} models are`;
  $("unloaded").textContent = `${which} not loaded: a request has one loaded.`;
}

function modelCard(name) {
  const head = element("div", "row");
  const problem = element("p", "alert");
  const tiles = element("div", "tiles");
  const rollout = element("div");
  const versions = element("div");
  const root = element("article", "card", head, problem, tiles, rollout, versions);
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
      rollout.replaceChildren(...rolloutTable(model.load), ...shadowTable(model.load));
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

// Both versions side by side, so that one look says whether the one on trial is as good.
function rolloutTable(load) {
  if (!load || !load.rollout.length) return [];
  const { shadow } = load;
  const titles = ["Roll-out", "Share", "Requests/s", "Failures", "Median", "99th percentile"];
  if (shadow) titles.push("Answers otherwise");
  const body = element("tbody", "");
  const baseline = load.rollout.find((part) => part.part === "stable");
  for (const part of load.rollout) {
    const share = element("td", "", `${(100 * part.share).toFixed(part.share * 100 % 1 ? 2 : 0)} %`);
    const bar = element("div", "share");
    bar.style.width = `${100 * part.share}%`;
    share.append(bar);
    body.append(element(
      "tr", "",
      element(
        "td", "", badge(part.part, "label"), ` version ${part.version}`,
        ...(part.is_held ? [" ", badge("held", "bad")] : []),
      ),
      share,
      element("td", "", amount(part.requests_per_s)),
      element("td", failsMore(part, baseline) ? "worse" : "", failures(part)),
      element("td", "", milliseconds(part.p50_ms)),
      element("td", isSlower(part, baseline) ? "worse" : "", milliseconds(part.p99_ms)),
      ...(shadow ? [element("td", "", shadow.version === part.version ? otherwise(shadow) : "")] : []),
    ));
  }
  if (shadow && !load.rollout.some((part) => part.version === shadow.version)) {
    body.append(element(
      "tr", "",
      element("td", "", badge("shadow", "label"), ` version ${shadow.version}`),
      ...["none", "–", failures(shadow), milliseconds(shadow.p50_ms), milliseconds(shadow.p99_ms), otherwise(shadow)]
        .map((text) => element("td", "", text)),
    ));
  }
  const head = element("tr", "", ...titles.map((title) => element("th", "", title)));
  const verdict = element("p", "verdict", badge(load.verdict, VERDICTS[load.verdict]), ` The canary: ${load.verdict_reason}.`);
  return [element("table", "rollout", element("thead", "", head), body), verdict];
}

// What the shadow's answers were beside those of stable, one line for each output.
function shadowTable(load) {
  const shadow = load && load.shadow;
  if (!shadow) return [];
  const dropped = Object.entries(shadow.dropped).map(([reason, count]) => `${amount(count)} ${DROPPED[reason] || reason}`);
  const what = `Version ${shadow.version} as a shadow of version ${shadow.stable}: ${amount(shadow.requests)} requests ` +
    `have run on it too, ${amount(shadow.rows)} rows; median run ${milliseconds(shadow.p50_ms)}` +
    (dropped.length ? `. Not compared: ${dropped.join(", ")}.` : ".");
  const shown = [element("p", "dim small", what)];
  if (shadow.failures) {
    shown.push(element("p", "alert small", `${amount(shadow.failures)} requests failed there. The last: ${shadow.last_error}`));
  }
  const names = Object.keys(shadow.outputs);
  if (!names.length) return shown;
  const titles = ["Output", "Rows otherwise", "Other top class", "Difference: mean", "largest", "Relative: mean", "largest", "NaN, ∞"];
  const body = element("tbody", "");
  for (const name of names) {
    const output = shadow.outputs[name];
    const problems = Object.entries(output.problems).map(([problem, count]) => `${problem} ${amount(count)} times`);
    const cell = element("td", "mono", name);
    if (problems.length) cell.append(element("p", "alert small", `${problems.join(", ")}: ${output.detail}`));
    const bad = (value) => value ? "worse" : "";
    body.append(element(
      "tr", "", cell,
      element("td", bad(output.disagreeing_rows), percent(output.rows ? output.disagreeing_rows / output.rows : 0)),
      element("td", "", output.top_changed === null ? "–" : percent(output.top_changed)),
      ...[output.mean_abs, output.max_abs, output.mean_rel, output.max_rel].map((value) => element("td", "", difference(value))),
      element("td", bad(output.not_finite), amount(output.not_finite)),
    ));
  }
  const head = element("tr", "", ...titles.map((title) => element("th", "", title)));
  return [...shown, element("table", "shadow", element("thead", "", head), body)];
}

const VERDICTS = { good: "good", worse: "bad", held: "bad", "no verdict": "wait" };

const DROPPED = {
  busy: "while the server was busy", bytes: "for want of room", stateful: "of a graph with state",
  not_loaded: "while it was not loaded",
};

function otherwise(shadow) {
  return shadow.requests ? `${percent(shadow.disagreement)} of ${amount(shadow.rows)} rows` : "none yet";
}

function failures(of) {
  return of.requests ? `${percent(of.failures / of.requests)} of ${amount(of.requests)}` : "–";
}

function percent(part) {
  return `${part && part < 0.1 ? (100 * part).toFixed(2) : (100 * part).toFixed(part % 1 ? 1 : 0)} %`;
}

function difference(value) {
  if (value === null) return "–";
  return value && value < 0.001 ? value.toExponential(1) : Number(value.toPrecision(3)).toString();
}

function failsMore(part, baseline) {
  const ratio = (of) => of.requests ? of.failures / of.requests : 0;
  return part !== baseline && ratio(part) > (baseline ? 2 * ratio(baseline) : 0);
}

function isSlower(part, baseline) {
  return part !== baseline && baseline && baseline.p99_ms !== null && part.p99_ms > 1.5 * baseline.p99_ms;
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

export function tensors(specs) {
  return Object.entries(specs).map(([alias, spec]) => `${alias} ${tensor(spec)}`).join(", ");
}

function tensor(spec) {
  return `${spec.dtype} ${spec.shape === null ? "[…]" : `[${spec.shape.join(", ")}]`}`;
}

function amount(value) {
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  return value >= 100 ? `${Math.round(value)} ms` : `${value.toPrecision(2)} ms`;
}
