// The page of the HTTP API: what openapi.json says, for people.
import { $, badge, element } from "./dom.js";
import { call, listenToSignIn, openWithToken, showProblem } from "./server.js";
import { copyButtons } from "./snippets.js";

async function refresh() {
  try {
    const { body } = await call("openapi.json");
    showProblem(null);
    $("about").textContent = body.info.description;
    $("operations").replaceChildren(...sections(body).map(section));
  } catch (error) {
    showProblem(error);
  }
}

function sections({ paths }) {
  const byTag = new Map();
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const [tag] = operation.tags;
      if (!byTag.has(tag)) byTag.set(tag, []);
      byTag.get(tag).push({ path, method: method.toUpperCase(), ...operation });
    }
  }
  return [...byTag];
}

function section([tag, operations]) {
  return element("section", "", element("h2", "", tag), ...operations.map(operationCard));
}

function operationCard(operation) {
  const { path, method, summary, parameters, requestBody } = operation;
  const head = element("div", "row", badge(method, "label"), element("span", "mono path", path),
    element("span", "dim", summary));
  const card = element("article", "card", head);
  for (const { name, schema } of parameters || []) {
    card.append(element("p", "small", element("span", "mono", name), `: ${inWords(schema)}`));
  }
  if (requestBody) card.append(...bodyOf(path, requestBody.content["application/json"]));
  return card;
}

function bodyOf(path, { schema, example }) {
  const parts = (schema.anyOf || [schema]).map((one) => {
    const fields = Object.entries(one.properties)
      .filter(([name]) => name !== "signature_name")
      .map(([name, field]) => element("p", "mono small", `${name}: ${inWords(field)}`));
    const title = one.title ? [element("p", "small", `signature ${one.title}`)] : [];
    return element("div", "form", ...title, ...fields);
  });
  if (example !== undefined && !path.includes("{")) {
    parts.push(copyButtons({ path: path.slice(1), body: JSON.stringify(example) }));
  }
  return parts;
}

// A schema in one line, lists with their lengths: `number [any, 8, 8]`.
function inWords(schema) {
  const sizes = [];
  let inner = schema;
  while (inner.type === "array") {
    sizes.push(inner.minItems !== undefined && inner.minItems === inner.maxItems ? inner.minItems : "any");
    inner = inner.items;
  }
  return sizes.length ? `${kind(inner)} [${sizes.join(", ")}]` : kind(inner);
}

function kind(schema) {
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.oneOf) return schema.oneOf.map(inWords).join(" | ");
  if (schema.type === "object" && schema.properties) {
    const fields = Object.entries(schema.properties).map(([name, one]) => `${name}: ${inWords(one)}`);
    return `{${fields.join(", ")}}`;
  }
  if (schema.type === "integer" && schema.maximum !== undefined) {
    return `integer ${schema.minimum} to ${schema.maximum}`;
  }
  return schema.type || "any JSON";
}

openWithToken($("openapi"));
listenToSignIn(refresh);
refresh();
