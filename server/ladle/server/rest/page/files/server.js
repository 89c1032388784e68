// Talking to the server, with the token that was given.
import { $ } from "./dom.js";

const TOKEN = "ladle-token";

export function hasToken() {
  return Boolean(sessionStorage.getItem(TOKEN));
}

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

// Returns the answer's JSON and its text; throws what the server says went wrong.
export async function call(path, options) {
  const { headers: more, ...others } = options || {};
  const response = await fetch(path, { cache: "no-store", ...others, headers: headers(more) });
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

// A link can't send a token: what it leads to is fetched, and shown as the text that it is.
export function openWithToken(link) {
  link.addEventListener("click", async (event) => {
    if (!hasToken()) return;
    event.preventDefault();
    const response = await fetch(link.href, { cache: "no-store", headers: headers() });
    const text = new Blob([await response.text()], { type: "text/plain" });
    window.open(URL.createObjectURL(text), "_blank");
  });
}

// Shows the form for a token where the server wants one, and says what else is wrong.
export function showProblem(error) {
  const unknown = error !== null && error.status === 401;
  $("sign-in").hidden = !unknown;
  $("problem").hidden = error === null || (unknown && !hasToken());
  if (error) $("problem").textContent = error.status ? error.message : "The server does not answer.";
}

export function listenToSignIn(refresh) {
  $("sign-in").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(TOKEN, $("token").value);
    $("token").value = "";
    refresh();
  });
}
