// Elements of a page. Everything from the server goes into it as text, never as markup.

export const $ = (id) => document.getElementById(id);

export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children.map((child) => child instanceof Node ? child : String(child)));
  return made;
}

export function badge(text, kind) {
  return element("span", `badge ${kind || ""}`, text);
}

export function showError(result, message) {
  result.replaceChildren(element("p", "alert", message));
}
