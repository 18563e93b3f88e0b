// Both towers, away from the page's own thread: it loads everything once, then turns words and pictures into vectors.

import * as ort from "./onnxruntime/ort.min.js";
import { towerPixels } from "./pixels.js";
import { makeTokenizer } from "./tokenizer.js";

const BATCH = 8; // texts at a time, as in Python: what is quantised together shares its range
let space, tokenize, towers, vectors;

const tasks = { load, words, picture, alike, label };

self.onmessage = async ({ data: { id, task, given } }) => {
  try {
    const { value, transfer = [] } = await tasks[task](given);
    self.postMessage({ id, value }, transfer);
  } catch (error) {
    self.postMessage({ id, error: String(error?.message ?? error) });
  }
};

/** Fetch every file and start both towers; afterwards nothing is asked of any host. */
async function load() {
  space = await (await got("space.json")).json();
  const whole = space.files.reduce((sum, one) => sum + one.bytes, 0);
  const files = {};
  let bytes = 0;
  for (const { name } of space.files) {
    files[name] = await read(name, (more) => self.postMessage({ loaded: (bytes += more) / whole }));
  }
  self.postMessage({ loaded: 1 });
  const text = (name) => JSON.parse(new TextDecoder().decode(files[name]));
  tokenize = makeTokenizer(text("words.json"));
  vectors = fromHalves(new Uint16Array(files["pictures/vectors.f16"]));
  ort.env.wasm.numThreads = 1; // more need headers that a static Space does not send
  ort.env.wasm.wasmBinary = files["onnxruntime/ort-wasm-simd-threaded.wasm"];
  ort.env.logLevel = "error";
  towers = {
    text: await ort.InferenceSession.create(new Uint8Array(files["model/text.onnx"])),
    image: await ort.InferenceSession.create(new Uint8Array(files["model/image.onnx"])),
  };
  await texts(["a cat"]); // what a first visitor would wait for
  const pictures = files["pictures/pictures.bin"];
  return { value: { space, pictures, items: text("pictures/pictures.json") }, transfer: [pictures] };
}

async function got(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} could not be loaded (${answer.status}). Load the page again.`);
  return answer;
}

async function read(name, tell) {
  const reader = (await got(name)).body.getReader();
  const parts = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return new Blob(parts).arrayBuffer();
    parts.push(value);
    tell(value.length);
  }
}

async function words({ text, many, among }) {
  const [vector] = await texts([text]);
  return { value: nearest(vector, many, among) };
}

async function picture({ image, many, among }) {
  return { value: nearest(await seen(image), many, among) };
}

async function alike({ place, many, among }) {
  const own = vectors.subarray(place * space.width, (place + 1) * space.width);
  return { value: nearest(own, many + 1, among).filter((one) => one.place !== place).slice(0, many) };
}

/** Each label's share of a softmax over cosines at the model's own temperature (arXiv:2103.00020, section 3.1.4). */
async function label({ image, labels }) {
  const found = await texts(labels.flatMap((one) => space.templates.map((template) => template.replace("{}", one))));
  const vector = await seen(image);
  const logits = labels.map((_, place) => {
    const own = found.slice(place * space.templates.length, (place + 1) * space.templates.length);
    const mean = own[0].map((_, n) => own.reduce((sum, one) => sum + one[n], 0));
    return (space.scale * product(mean, vector)) / Math.hypot(...mean);
  });
  const most = Math.max(...logits);
  const powers = logits.map((one) => Math.exp(one - most));
  const sum = powers.reduce((total, one) => total + one, 0);
  return { value: powers.map((one) => one / sum) };
}

/** Return each text's unit vector. */
async function texts(all) {
  const rows = all.map(tokenize);
  const length = Math.max(...rows.map((row) => row.length));
  const found = [];
  for (let start = 0; start < rows.length; start += BATCH) {
    const part = rows.slice(start, start + BATCH);
    const ids = part.flatMap((row) => [...row, ...Array(length - row.length).fill(space.pad)]);
    const tokens = new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [part.length, length]);
    const { data } = (await towers.text.run({ tokens })).vectors;
    for (let place = 0; place < part.length; place++) found.push(data.slice(place * space.width, (place + 1) * space.width));
  }
  return found;
}

/** Return a picture's unit vector. */
async function seen(image) {
  const { side } = space.pixels;
  const pixels = new ort.Tensor("float32", towerPixels(image, space.pixels), [1, 3, side, side]);
  return (await towers.image.run({ pixels })).vectors.data;
}

/** Return the places and cosines of the nearest pictures, nearest first; of equal ones the first. */
function nearest(vector, many, among) {
  const scores = [];
  for (let place = 0; place < vectors.length / space.width; place++) {
    if (among && !among[place]) continue;
    scores.push({ place, score: product(vector, vectors.subarray(place * space.width, (place + 1) * space.width)) });
  }
  return scores.sort((one, other) => other.score - one.score).slice(0, many);
}

function product(one, other) {
  let sum = 0;
  for (let place = 0; place < one.length; place++) sum += one[place] * other[place];
  return sum;
}

function fromHalves(halves) {
  return Float32Array.from(halves, (half) => {
    const sign = half & 0x8000 ? -1 : 1, exponent = (half >> 10) & 31, rest = half & 1023;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + rest / 1024) : 2 ** -14 * (rest / 1024));
  });
}
