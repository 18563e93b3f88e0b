// The page: what is asked goes to the worker, and what it finds is shown. Nothing goes anywhere else.

const MANY = 12; // pictures of one answer
const MOST_BYTES = 10_000_000, MOST_PIXELS = 25_000_000, LARGEST_SIDE = 2048, LEAST_SIDE = 8;
const TONGUES = { en: "English", de: "Deutsch", es: "Español", fr: "Français", it: "Italiano", pt: "Português" };
const $ = (id) => document.getElementById(id);
let space, items, blobs, pictures, own = null;

// --- The worker: one answer for each question ----------------------------------------------------------------------

let worker;
const waiting = new Map();

function ask(task, given) {
  return new Promise((resolve, reject) => {
    const id = crypto.randomUUID?.() ?? String(Math.random());
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, task, given });
  });
}

function answered({ data }) {
  if ("loaded" in data) return progress(data.loaded);
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.error) reject(new Error(data.error));
  else resolve(data.value);
}

// --- Loading: everything, before the page says that it is ready ----------------------------------------------------

function progress(share) {
  $("loaded").value = share;
  if (share === 1) $("loading-words").textContent = "Starting the model …";
}

/** Let the service worker, where there may be one, listen before the large files are fetched: it keeps them. */
async function keepFiles() {
  try {
    await navigator.serviceWorker.register("sw.js");
    if (navigator.serviceWorker.controller) return;
    const listens = new Promise((done) => navigator.serviceWorker.addEventListener("controllerchange", done, { once: true }));
    await Promise.race([listens, new Promise((done) => setTimeout(done, 3000))]);
  } catch {
    // A private window, or a frame that may keep nothing: the page works until it is closed.
  }
}

async function start() {
  await keepFiles();
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = answered;
  worker.onerror = () => failed("The model cannot be started: this browser is too old, or its memory is full.");
  let packed;
  ({ space, pictures: packed, items } = await ask("load"));
  let begin = 0;
  blobs = items.map(({ bytes }) => new Blob([packed.slice(begin, (begin += bytes))], { type: "image/webp" }));
  pictures = blobs.map((blob) => URL.createObjectURL(blob));
  drawChoices();
  drawSamples();
  document.querySelectorAll("button:disabled").forEach((button) => (button.disabled = false));
  $("loading").hidden = true;
  $("about").textContent = "Ready. Everything is here now: it works without a network.";
  document.documentElement.dataset.ready = "true";
  if ($("words").value) find();
}

function failed(text) {
  $("loading").className = "note bad";
  $("loading").textContent = text;
}

// --- Find ------------------------------------------------------------------------------------------------------------

const among = () => ($("held-out").checked ? items.map((item) => !item.trained_on) : null);
const named = ({ names }) => names[$("language").value] ?? Object.values(names)[0];
let asked = 0;

/** Show what a question finds, unless another was asked meanwhile. */
async function show(list, about, said, question) {
  const number = ++asked;
  const begun = performance.now();
  about.className = "about";
  try {
    const found = await question;
    if (number !== asked) return;
    list.replaceChildren(...found.map(drawFound));
    about.textContent = `${said} ${searched()} (${Math.round(performance.now() - begun)} ms).`;
    list.dataset.answer = number;
  } catch (error) {
    if (number === asked) refuse(about, error.message);
  }
}

function refuse(about, text) {
  about.className = "about bad";
  about.textContent = text;
}

function searched() {
  const whole = items.length, heldOut = items.filter((item) => !item.trained_on).length;
  const count = (number) => number.toLocaleString("en");
  if ($("held-out").checked) return `${count(heldOut)} pictures searched, none of which it was trained on`;
  return `${count(whole)} pictures searched; it was trained on ${count(whole - heldOut)} of them`;
}

function drawFound({ place, score }) {
  const item = items[place];
  const button = make("button", { type: "button", title: "Find pictures like this one" });
  button.dataset.place = place;
  button.dataset.score = score;
  const more = make("span", { className: "more" }, make("span", { textContent: score.toFixed(2) }));
  if (item.trained_on) more.append(make("span", { textContent: "trained on" }));
  const img = make("img", { src: pictures[place], alt: "", width: 224, height: 224 });
  button.append(img, make("span", { className: "name", textContent: named(item) }), more);
  button.onclick = () => {
    choose($("tab-find"));
    show($("found"), $("about"), `Like “${named(item)}”:`, ask("alike", { place, many: MANY, among: among() }));
    scrollTo({ top: 0, behavior: "smooth" });
  };
  return make("li", {}, button);
}

function find() {
  const text = $("words").value.trim();
  if (!text) return refuse($("about"), "Write some words to look for.");
  if (/[\p{Cc}\p{Cs}]/u.test(text)) return refuse($("about"), "The words hold control characters. Type them anew.");
  return show($("found"), $("about"), `“${text}”:`, ask("words", { text, many: MANY, among: among() }));
}

function drawChoices() {
  const tongues = space.languages;
  $("language").replaceChildren(...tongues.map((one) => make("option", { value: one, textContent: TONGUES[one] ?? one })));
  $("language-choice").hidden = tongues.length < 2;
  const heldOut = items.filter((item) => !item.trained_on).length;
  $("held-out-choice").hidden = heldOut === 0 || heldOut === items.length;
  drawTries();
}

function drawTries() {
  const tries = space.tries[$("language").value].map((text) => {
    const button = make("button", { type: "button", textContent: text });
    button.onclick = () => {
      $("words").value = text;
      find();
    };
    return button;
  });
  $("tries").replaceChildren(...tries);
}

// --- A picture of one's own -------------------------------------------------------------------------------------------

async function take(blob) {
  const about = $("own-about");
  try {
    const image = await decoded(blob);
    URL.revokeObjectURL($("shown").src);
    $("shown").src = URL.createObjectURL(blob);
    $("shown").hidden = false;
    $("drop-words").hidden = true;
    $("shares").replaceChildren();
    own = image;
    const question = ask("picture", { image, many: MANY, among: among() });
    await Promise.all([show($("own-found"), about, "Like your picture:", question), labelled()]);
  } catch (error) {
    refuse(about, error.message);
  }
}

/** Return a picture's ImageData, upright and on white; sides beyond 2,048 pixels are made smaller first. */
async function decoded(blob) {
  if (!/^image\/(jpeg|png|webp|gif|bmp)$/.test(blob.type)) throw new Error("This is no JPEG, PNG, WebP, GIF or BMP. Choose another.");
  if (blob.size > MOST_BYTES) throw new Error(`This picture has ${Math.round(blob.size / 1e6)} MB; at most 10 are taken.`);
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" }).catch(() => {
    throw new Error("This picture is damaged. Choose another.");
  });
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) throw new Error("This picture has more than 25 million pixels. Make it smaller.");
  if (Math.min(width, height) < LEAST_SIDE) throw new Error("This picture has less than 8 pixels on a side.");
  const share = Math.min(1, LARGEST_SIDE / Math.max(width, height));
  const canvas = make("canvas", { width: Math.max(1, Math.round(width * share)), height: Math.max(1, Math.round(height * share)) });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

async function labelled() {
  const labels = [...new Set($("labels").value.split(/[,\n]/).map((one) => one.trim()).filter(Boolean))];
  if (!own) return refuse($("own-about"), "Choose a picture first.");
  if (labels.length < 2 || labels.length > 50) return refuse($("own-about"), `Write 2 to 50 labels with commas between; there are ${labels.length}.`);
  const image = own;
  const shares = await ask("label", { image, labels });
  if (image !== own) return;
  const ordered = labels.map((label, place) => ({ label, share: shares[place] })).sort((one, other) => other.share - one.share);
  $("shares").replaceChildren(
    ...ordered.slice(0, 8).map(({ label, share }) =>
      make("li", {}, make("span", { textContent: label }), make("span", { textContent: `${Math.round(100 * share)} %` }),
        make("meter", { value: share, title: label })),
    ),
  );
}

function drawSamples() {
  $("samples").replaceChildren(
    ...space.samples.map((place) => {
      const button = make("button", { type: "button", title: named(items[place]) });
      button.append(make("img", { src: pictures[place], alt: named(items[place]) }));
      button.onclick = () => take(blobs[place]);
      return button;
    }),
  );
}

// --- The page -----------------------------------------------------------------------------------------------------------

function make(name, given = {}, ...children) {
  const made = Object.assign(document.createElement(name), given);
  made.append(...children);
  return made;
}

function choose(tab, focus = false) {
  for (const one of document.querySelectorAll("[role=tab]")) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", String(chosen));
    one.tabIndex = chosen ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (focus) tab.focus();
}

function listen() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.forEach((tab, place) => {
    tab.onclick = () => choose(tab);
    tab.onkeydown = ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (step) choose(tabs[(place + step + tabs.length) % tabs.length], true);
    };
  });
  $("ask").onsubmit = (event) => {
    event.preventDefault();
    if (space) find();
  };
  $("held-out").onchange = () => $("words").value.trim() && find();
  $("language").onchange = () => {
    drawTries();
    if ($("words").value.trim()) find();
  };
  $("label").onsubmit = (event) => {
    event.preventDefault();
    if (space) labelled().catch((error) => refuse($("own-about"), error.message));
  };
  $("file").onchange = ({ target }) => space && target.files[0] && take(target.files[0]);
  document.onpaste = ({ clipboardData }) => {
    const file = [...clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (!file || !space) return;
    choose($("tab-own"));
    take(file);
  };
  const drop = $("drop");
  const over = (is) => (event) => {
    event.preventDefault();
    drop.classList.toggle("over", is);
  };
  drop.ondragover = over(true);
  drop.ondragleave = over(false);
  drop.ondrop = (event) => {
    over(false)(event);
    const [file] = event.dataTransfer.files;
    if (file && space) take(file);
  };
}

listen();
start().catch((error) => failed(error.message));
