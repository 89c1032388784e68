// A picture that is drawn, dropped or chosen, and what the model gets of it.
import { $ } from "./dom.js";

const state = { input: null, drawn: false };

// The signature that takes pictures as pixels, by the model card: raw ones rather than normalised.
export function pictureInput(version) {
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

// Digits are white on black, as in the usual sets of them; colour pictures are drawn on paper.
function isPaper() {
  return state.input.channels === 3;
}

function ground() {
  return isPaper() ? "#fff" : "#000";
}

export function prepareCanvas(input) {
  state.input = input;
  const { height, width } = input;
  const canvas = $("canvas");
  canvas.width = Math.max(280, width);
  canvas.height = Math.round(canvas.width * height / width);
  $("preview").width = width;
  $("preview").height = height;
  const colour = isPaper() ? "colour" : "grey";
  $("preview-about").textContent = `${height} × ${width}, ${colour}`;
  $("centre").checked = !isPaper();
}

export function clearCanvas() {
  state.drawn = false;
  for (const id of ["canvas", "preview"]) {
    const context = $(id).getContext("2d", { willReadFrequently: true });
    context.fillStyle = ground();
    context.fillRect(0, 0, $(id).width, $(id).height);
  }
}

function stroke(event) {
  const canvas = $("canvas");
  const context = canvas.getContext("2d");
  const scale = canvas.width / canvas.clientWidth;
  const at = { x: event.offsetX * scale, y: event.offsetY * scale };
  const from = stroke.last || at;
  context.strokeStyle = isPaper() ? "#000" : "#fff";
  context.lineWidth = canvas.width / 13;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(from.x, from.y);
  context.lineTo(at.x, at.y + 0.01); // a dot, where it does not move
  context.stroke();
  stroke.last = at;
}

// Calls `clear` before the first stroke, `changed` after each one, and `take` with a dropped file.
export function listenToCanvas({ clear, changed, take }) {
  const canvas = $("canvas");
  canvas.addEventListener("pointerdown", (event) => {
    if (!state.drawn) {
      clear();
      state.drawn = true;
    }
    canvas.setPointerCapture(event.pointerId);
    stroke.last = null;
    stroke.active = true;
    stroke(event);
  });
  canvas.addEventListener("pointermove", (event) => stroke.active && stroke(event));
  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, () => {
      if (stroke.active) changed();
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
}

// Throws where the file is no picture that the browser can read.
export async function draw(file) {
  const bitmap = await createImageBitmap(file);
  clearCanvas();
  $("canvas").getContext("2d").drawImage(bitmap, 0, 0, $("canvas").width, $("canvas").height);
}

// Draws what the model gets on the preview, and returns it: one example, as nested lists.
export function sample() {
  const { height, width, channels } = state.input;
  const image = shrink(height, width);
  const inverted = $("invert").checked;
  for (let i = 0; i < image.data.length; i += 4) {
    const [r, g, b] = image.data.slice(i, i + 3).map((value) => inverted ? 255 - value : value);
    const grey = Math.round(0.299 * r + 0.587 * g + 0.114 * b);
    image.data.set(channels === 3 ? [r, g, b] : [grey, grey, grey], i);
  }
  $("preview").getContext("2d").putImageData(image, 0, 0);
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

// The canvas at the model's size, cut to what was drawn.
function shrink(height, width) {
  const source = $("canvas");
  const context = $("preview").getContext("2d", { willReadFrequently: true });
  context.fillStyle = ground();
  context.fillRect(0, 0, width, height);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  const box = state.drawn && $("centre").checked ? inkBox(source) : null;
  if (box) {
    // As in the usual sets of digits: small ones fill their square, larger ones leave a margin.
    const fill = Math.min(height, width) <= 12 ? 1 : 20 / 28;
    const scale = fill * Math.min(width / box.width, height / box.height);
    const [w, h] = [box.width * scale, box.height * scale];
    context.drawImage(source, box.x, box.y, box.width, box.height, (width - w) / 2, (height - h) / 2, w, h);
  } else {
    context.drawImage(source, 0, 0, width, height);
  }
  return context.getImageData(0, 0, width, height);
}

// A byte of the preview as the model's input has it.
function number(value, channel) {
  const { dtype, scaling } = state.input;
  const of = (field) => Array.isArray(field) ? field[channel] : field;
  const [offset, divisor] = [of(scaling.offset), of(scaling.divisor)];
  // Pixels that were divided by 16, as scikit-learn's digits, went up to 16.
  const most = Array.isArray(scaling.offset) || offset + divisor > 255 ? 255 : offset + divisor;
  const raw = value / 255 * (most >= 1 ? most : 255);
  // A float32 has no more digits.
  return dtype === "uint8" ? Math.round(raw) : Number(((raw - offset) / divisor).toPrecision(8));
}

function inkBox(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const isInk = isPaper() ? (value) => value < 223 : (value) => value > 32;
  let [left, top, right, bottom] = [canvas.width, canvas.height, -1, -1];
  for (let y = 0; y < canvas.height; y += 1) {
    for (let x = 0; x < canvas.width; x += 1) {
      if (isInk(data[4 * (y * canvas.width + x)])) {
        left = Math.min(left, x);
        right = Math.max(right, x);
        top = Math.min(top, y);
        bottom = Math.max(bottom, y);
      }
    }
  }
  return right < 0 ? null : { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
}
