// The body that the page offers for a signature.

// An example with more numbers is shown shortened.
const MOST_SHOWN = 500;

function sizes(shape) {
  return (shape || [-1]).map((size) => Math.max(1, size));
}

function count(specs) {
  return specs.reduce((all, { shape }) => all + sizes(shape).reduce((a, b) => a * b, 1), 0);
}

// An array of a spec's dtype and shape, of the least size, as JSON; `most` items of each list.
function zeros({ dtype, shape }, most) {
  const leaf = dtype === "string" ? '""' : dtype === "bool" ? "false" : "0";
  const nest = ([size, ...rest]) => {
    if (size === undefined) return leaf;
    const item = nest(rest);
    const items = Array.from({ length: Math.min(size, most) }, () => item);
    return `[${items.join(", ")}${size > most ? ", …" : ""}]`;
  };
  return nest(sizes(shape));
}

function body(name, inputs, most) {
  const values = Object.entries(inputs).map(([alias, spec]) => [alias, zeros(spec, most)]);
  const text = values.length === 1
    ? values[0][1]
    : `{${values.map(([alias, value]) => `${JSON.stringify(alias)}: ${value}`).join(", ")}}`;
  return `{"signature_name": ${JSON.stringify(name)}, "inputs": ${text}}`;
}

// Returns what to show, what to send for it, and how many numbers that has.
export function exampleBody(name, inputs) {
  const numbers = count(Object.values(inputs));
  const isLong = numbers > MOST_SHOWN;
  const whole = () => body(name, inputs, Infinity);
  return { shown: isLong ? body(name, inputs, 2) : whole(), whole, isLong, numbers };
}
