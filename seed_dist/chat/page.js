"use strict";
// The page of a conversation. All text goes in as text, never as markup.

const find = (id) => document.getElementById(id);
const [log, say, statusLine] = ["log", "say", "status"].map(find);
let conversation = null; // what the server said when it began
let waiting = []; // numbers of the pictures of the next turn
let busy = false;

/** An element with properties and children; strings become text. */
function make(name, properties, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

async function ask(path, body) {
  const isFile = body instanceof Blob;
  const type = isFile ? "application/octet-stream" : "application/json";
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": type }, body: isFile ? body : JSON.stringify(body) };
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Error("The server gave no answer. Is it still running? Its terminal may say why.");
  }
  const values = await reply.json();
  if (!reply.ok) throw new Error(values.error);
  return values;
}

const at = (path) => `conversations/${conversation.id}${path}`;
const pictureAt = (picture, kind) => at(`/pictures/${picture.number}/${kind}?${picture.painted_times}`);

/** Show `words` with the seconds that pass while `work` is done, and an error if it fails. */
async function during(words, place, work) {
  const seconds = make("span", { ariaHidden: "true" });
  const started = Date.now();
  const tick = setInterval(() => { seconds.textContent = ` ${Math.round((Date.now() - started) / 1000)} s`; }, 1000);
  place.className = `${place.dataset.is || ""} busy`;
  place.replaceChildren(words, seconds);
  try {
    const value = await work();
    place.className = place.dataset.is || "";
    place.replaceChildren();
    return value;
  } catch (error) {
    place.className = `${place.dataset.is || ""} bad`;
    place.replaceChildren(error.message);
    return null;
  } finally {
    clearInterval(tick);
  }
}

function setBusy(value) {
  busy = value;
  for (const id of ["send", "new", "save", "attach"]) find(id).disabled = value;
}

// ---- pictures

function view(picture, kind, caption) {
  const image = make("img", { alt: `Picture ${picture.number}, ${caption}` });
  image.onload = () => image.classList.toggle("small", image.naturalWidth <= 128);
  image.src = pictureAt(picture, kind);
  return make("div", {}, image, make("small", {}, caption));
}

/** The card of a picture: how it looks, its codes to be edited, and what may be done with it. */
function card(picture) {
  const count = conversation.models.queries, top = conversation.models.codes - 1;
  const views = make("div", { className: "views" });
  const said = make("p", { className: "said" });
  said.setAttribute("role", "status");
  said.dataset.is = "said";
  const inputs = picture.codes.map((code, index) => {
    const input = make("input", { type: "number", min: 0, max: top, step: 1, required: true, value: code });
    input.setAttribute("aria-label", `code ${index + 1} of ${count}`);
    input.oninput = mark;
    input.onkeydown = (event) => { if (event.key === "Enter") repaint(); };
    return input;
  });
  const repaintButton = make("button", { type: "button", className: "main", onclick: () => repaint() }, "Paint these codes");
  const againButton = make("button", { type: "button", onclick: () => repaint(1) }, "Another try");
  const firstButton = make("button", { type: "button", onclick: first }, "Reset");
  const talkButton = make("button", { type: "button", onclick: () => wait(picture) }, "Talk about it");
  const boxes = inputs.map((input, index) => make("li", {}, make("label", {}, String(index + 1), input)));
  const details = make("details", { open: !picture.given },
    make("summary", {}, `Its ${count} codes`),
    make("ol", { className: "grid-of-codes" }, ...boxes),
    make("div", { className: "row" }, repaintButton, againButton, firstButton, talkButton));
  const figure = make("figure", { className: "picture-card" }, make("div", {}, views, said), details);
  figure.setAttribute("aria-label", `Picture ${picture.number}`);
  let tries = 0;

  function show() {
    const kinds = [];
    if (picture.given) kinds.push(view(picture, "given", "as given"));
    if (picture.painted_times) kinds.push(view(picture, "painted", "painted"));
    views.replaceChildren(...kinds);
    mark();
  }
  function mark() {
    let changed = 0;
    inputs.forEach((input, index) => {
      const differs = input.value !== String(picture.codes[index]);
      changed += differs;
      input.classList.toggle("changed", differs || picture.codes[index] !== picture.first_codes[index]);
    });
    repaintButton.textContent = changed ? `Paint with ${changed} changed` : "Paint these codes";
  }
  function first() {
    inputs.forEach((input, index) => { input.value = picture.first_codes[index]; });
    mark();
  }
  async function repaint(more = 0) {
    const wrong = inputs.find((input) => !input.checkValidity());
    if (wrong) {
      said.className = "said bad";
      said.textContent = `${wrong.getAttribute("aria-label")} is ${wrong.value || "no whole number"}; 0 to ${top} are allowed.`;
      wrong.focus();
      return;
    }
    tries += more;
    const buttons = [repaintButton, againButton, firstButton];
    buttons.forEach((button) => { button.disabled = true; });
    figure.classList.add("painting");
    if (!picture.painted_times) views.append(make("div", {}, make("p", { className: "empty busy" }, "painting")));
    const wanted = { codes: inputs.map((input) => Number(input.value)), seed: (Number(find("seed").value) + tries) % 2 ** 31 };
    const painted = await during("painting", said, () => ask(at(`/pictures/${picture.number}/paint`), wanted));
    if (painted) Object.assign(picture, painted);
    show();
    figure.classList.remove("painting");
    buttons.forEach((button) => { button.disabled = false; });
  }
  show();
  return { figure, repaint };
}

// ---- turns

function words(text) {
  return make("p", { className: "words" }, text);
}

/** Put a turn's half into the log; the value are the cards of its pictures. */
function put(who, parts, pictures, notes = []) {
  const cards = [];
  const item = make("li", { className: who }, make("p", { className: "who" }, who === "you" ? "You" : "Model"));
  for (const part of parts) {
    if ("text" in part) {
      item.append(words(part.text));
      continue;
    }
    const made = card(pictures.find((picture) => picture.number === part.picture));
    cards.push(made);
    item.append(made.figure);
  }
  if (who === "model" && !parts.length) item.append(make("p", { className: "remark" }, "It ended without a word."));
  for (const note of notes) item.append(make("p", { className: "remark" }, `Note: ${note}.`));
  log.append(item);
  item.scrollIntoView({ block: "end" });
  return cards;
}

const known = new Map(); // pictures of this conversation by number

async function send() {
  const text = say.value.trim();
  if (busy || !(text || waiting.length)) return;
  for (const id of ["remember", "temperature", "seed"]) {
    if (!find(id).checkValidity()) {
      find("manner").open = true;
      find(id).reportValidity();
      return;
    }
  }
  setBusy(true);
  const reply = document.querySelector("input[name=reply]:checked").value;
  const manner = { ...conversation.manner, reply, remember: Number(find("remember").value) };
  Object.assign(manner, { temperature: Number(find("temperature").value), seed: Number(find("seed").value) });
  const parts = [...waiting, ...(text ? [text] : [])];
  const turn = await during("thinking", statusLine, () => ask(at("/turns"), { ...manner, parts }));
  if (turn) {
    say.value = "";
    waiting = [];
    showWaiting();
    turn.pictures.forEach((picture) => known.set(picture.number, picture));
    put("you", turn.asked, [...known.values()]);
    const cards = put("model", turn.answered, [...known.values()], turn.notes);
    for (const made of cards) await made.repaint();
    log.lastElementChild.scrollIntoView({ block: "end" });
  }
  setBusy(false);
  say.focus();
}

// ---- pictures of the next turn

function showWaiting() {
  find("waiting").replaceChildren(...waiting.map((number, place) => {
    const picture = known.get(number);
    const remove = make("button", { type: "button", onclick: () => { waiting.splice(place, 1); showWaiting(); say.focus(); } }, "×");
    remove.setAttribute("aria-label", `Remove picture ${number}`);
    const image = make("img", { alt: `Picture ${number}`, src: pictureAt(picture, picture.given ? "given" : "painted") });
    return make("li", {}, image, remove);
  }));
}

function wait(picture) {
  waiting.push(picture.number);
  showWaiting();
  say.focus();
}

async function show(files) {
  if (busy || !conversation) return;
  setBusy(true);
  const limit = conversation.limits.upload_bytes;
  for (const file of files) {
    const picture = await during(`reading ${file.name}`, statusLine, () => {
      if (file.size > limit) throw new Error(`${file.name} has ${file.size} bytes; at most ${limit} are allowed.`);
      return ask(at("/pictures"), file);
    });
    if (!picture) break;
    known.set(picture.number, picture);
    waiting.push(picture.number);
  }
  showWaiting();
  setBusy(false);
  say.focus();
}

// ---- begin, go on, save

async function begin() {
  conversation = await during("", statusLine, () => ask("conversations", {}));
  if (!conversation) return;
  sessionStorage.setItem("conversation", JSON.stringify(conversation));
  known.clear();
  waiting = [];
  showWaiting();
  log.replaceChildren();
  introduce();
}

function introduce() {
  const { language_model: model, queries, codes } = conversation.models;
  find("models").textContent = `${model} · a picture is ${queries} of ${codes.toLocaleString("en")} codes`;
  for (const name of ["remember", "temperature", "seed"]) find(name).value = conversation.manner[name];
  document.querySelector(`input[value=${conversation.manner.reply}]`).checked = true;
  say.maxLength = conversation.limits.text;
}

/** After a reload: what the server still has. */
async function goOn() {
  conversation = JSON.parse(sessionStorage.getItem("conversation"));
  const state = conversation && await ask(at("")).catch(() => null);
  if (!state) return begin();
  introduce();
  state.pictures.forEach((picture) => known.set(picture.number, picture));
  for (const turn of state.turns) {
    put("you", turn.asked, state.pictures);
    put("model", turn.answered, state.pictures, turn.notes);
  }
}

async function save() {
  const saved = await during("saving", statusLine, () => ask(at("/save"), {}));
  if (saved) statusLine.textContent = `Saved in ${saved.folder}`;
}

find("composer").onsubmit = (event) => { event.preventDefault(); send(); };
say.onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
};
find("attach").onclick = () => find("files").click();
find("files").onchange = (event) => { show([...event.target.files]); event.target.value = ""; };
find("new").onclick = begin;
find("save").onclick = save;
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) { event.preventDefault(); show(files); }
});
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  show([...event.dataTransfer.files]);
});
goOn();
