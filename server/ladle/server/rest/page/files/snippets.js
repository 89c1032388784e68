// A request to the server as a command or a program that can be pasted.
import { element } from "./dom.js";
import { hasToken } from "./server.js";

// A longer body is read from a file: a command's argument ends at 128 KiB.
const MOST_INLINE = 16384;
const FILE = "request.json";

// Shows buttons that copy `request`: a path, and the text of its body.
export function copyButtons(request) {
  const shown = element("pre", "mono snippet");
  shown.hidden = true;
  const said = element("span", "dim small");
  said.setAttribute("role", "status");
  const buttons = Object.entries(WRITERS).map(([name, write]) => {
    const button = element("button", "small", name);
    button.type = "button";
    button.addEventListener("click", async () => {
      const text = write(describe(request));
      shown.textContent = text;
      shown.hidden = false;
      said.textContent = await copy(text) ? "copied" : "select it to copy it";
    });
    return button;
  });
  const row = element("div", "row small", element("span", "dim", "Copy as"), ...buttons, said);
  if (request.body.length > MOST_INLINE) row.append(saveLink(request.body));
  return element("div", "copy", row, shown);
}

function describe({ path, body }) {
  const url = new URL(path, document.baseURI).href;
  return { url, body, isLong: body.length > MOST_INLINE, withToken: hasToken() };
}

// Outside of https and localhost, browsers have no clipboard for pages.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

function saveLink(body) {
  const button = element("button", "small", `save ${FILE}`);
  button.type = "button";
  button.addEventListener("click", () => {
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([body], { type: "application/json" }));
    link.download = FILE;
    link.click();
    URL.revokeObjectURL(link.href);
  });
  return button;
}

const WRITERS = { curl, Python: python, Node: node };

export function curl({ url, body, isLong, withToken }) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  return [
    `curl ${quoted(url)}`,
    ...(withToken ? ['-H "Authorization: Bearer $LADLE_TOKEN"'] : []),
    "-H 'Content-Type: application/json'",
    isLong ? `--data-binary @${FILE}` : `--data-raw ${quoted(body)}`,
  ].join(" \\\n  ") + "\n";
}

export function python({ url, body, isLong, withToken }) {
  // JSON's strings are Python's too. A raw one is easier to read, where it can be had.
  const text = body.includes("'''") ? JSON.stringify(body) : `r'''${body}'''`;
  return [
    "import json",
    ...(withToken ? ["import os"] : []),
    "import urllib.request",
    "",
    isLong ? `body = open("${FILE}", "rb").read()` : `body = ${text}.encode()`,
    'headers = {"Content-Type": "application/json"}',
    ...(withToken ? ['headers["Authorization"] = "Bearer " + os.environ["LADLE_TOKEN"]'] : []),
    `request = urllib.request.Request(${JSON.stringify(url)}, body, headers)`,
    "with urllib.request.urlopen(request, timeout=30) as answer:",
    "    print(json.load(answer))",
  ].join("\n") + "\n";
}

export function node({ url, body, isLong, withToken }) {
  const text = /[`\\]|\$\{/.test(body) ? JSON.stringify(body) : `\`${body}\``;
  const read = isLong ? `import("node:fs/promises").then((fs) => fs.readFile("${FILE}"))` : `Promise.resolve(${text})`;
  return [
    'const headers = { "Content-Type": "application/json" };',
    ...(withToken ? ["headers.Authorization = `Bearer ${process.env.LADLE_TOKEN}`;"] : []),
    read,
    `  .then((body) => fetch(${JSON.stringify(url)}, { method: "POST", headers, body }))`,
    "  .then((answer) => answer.text())",
    "  .then(console.log);",
  ].join("\n") + "\n";
}
