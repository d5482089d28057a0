// The page: what the visitor asks, what is under way, and what is shown of it. The server keeps nothing between
// requests, so each request brings along what it builds on.

import { submit } from "./queue.js";
import { $, Curve, UnitBoard, download, element, selectedTokens, showAnswers, showPart } from "./view.js";

const setup = JSON.parse($("setup").textContent);
const methods = new Map(setup.methods.map((method) => [method.name, method]));
const DELAY = 500; // milliseconds from the last press of a unit to the question

let underway = null; // { cancel, request }
let asked = null; // the request whose answer is shown
let answer = null; // { ids, tokens, target } of that request
let found = null; // the result event of the search
let shown = 0; // which of its results, if two methods were compared
let files = null; // { json, html } to download
let out = new Set(); // units taken out
let texts = { said: "", without: "" };
let timer = 0;

const board = new UnitBoard($("units"), toggle);
const curve = new Curve($("curve"));

// --- the form -------------------------------------------------------------------------------------------------------

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => element("option", { value }, text)));
  select.value = chosen;
}

function fill() {
  options($("unit"), setup.units.map(({ name, words }) => [name, words]), "auto");
  options($("method"), setup.methods.map(({ name }) => [name, name]), setup.method);
  options($("other"), [["", "nothing"], ...setup.methods.map(({ name }) => [name, name])], "");
  options($("removal"), [["", "the method's own"], ...setup.removals.map(({ name }) => [name, name])], "");
  for (const text of setup.examples) {
    const button = element("button", { type: "button", className: "example", title: text }, text);
    button.addEventListener("click", () => setPrompt(text));
    $("examples").append(button);
  }
}

function setPrompt(text) {
  $("prompt").value = text;
  $("prompt").dispatchEvent(new Event("input"));
  $("prompt").focus();
}

function number(id) {
  return $(id).value === "" ? null : Number($(id).value);
}

function readForm() {
  const request = {
    prompt: $("prompt").value,
    unit: $("unit").value,
    k: number("k"),
    methods: [$("method").value, $("other").value].filter(Boolean),
    removal: $("removal").value || null,
    budget: number("budget"),
    max_new_tokens: number("length"),
  };
  const [from, to] = [number("from"), number("to")];
  if (from !== null && to !== null) request.target = [from - 1, to];
  const same = answer && asked.prompt === request.prompt && asked.max_new_tokens === request.max_new_tokens;
  if (same) request.output_ids = answer.ids;
  return request;
}

function describe() {
  const method = methods.get($("method").value);
  const other = methods.get($("other").value);
  $("method-words").textContent = `${method.name}: ${method.words}. Cost: ${method.cost}.`;
  const fits = method.budget || other?.budget;
  $("budget").disabled = !fits;
  $("budget-words").textContent = fits ? `1 to ${setup.limits.budget}` : "this method's cost is fixed";
  $("removal-words").textContent = setup.removals.find(({ name }) => name === $("removal").value)?.words ?? "";
  const length = [...$("prompt").value].length;
  $("count").textContent = `${length.toLocaleString("en")} of at most ${setup.limits.prompt_characters.toLocaleString("en")} characters`;
  $("count").classList.toggle("over", length > setup.limits.prompt_characters);
}

// --- a link that brings the question along --------------------------------------------------------------------------

const LINKED = ["prompt", "k", "unit", "method", "other", "removal", "budget", "length", "from", "to"];

function link() {
  const values = LINKED.map((id) => [id, $(id).value]).filter(([, value]) => value !== "");
  return `${location.origin}${location.pathname}#${new URLSearchParams(values)}`;
}

function readLink() {
  for (const [id, value] of new URLSearchParams(location.hash.slice(1))) {
    if (!LINKED.includes(id)) continue;
    const before = $(id).value;
    $(id).value = value;
    if ($(id).value !== value && $(id).tagName === "SELECT") $(id).value = before; // no such choice
  }
  describe();
}

async function copyLink() {
  const text = link();
  try {
    await navigator.clipboard.writeText(text);
    say("The link is in the clipboard.");
  } catch {
    $("link").hidden = false; // no clipboard without HTTPS
    $("link").value = text;
    $("link").select();
    say("Here is the link; copy it from the field.");
  }
}

// --- asking ---------------------------------------------------------------------------------------------------------

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function about(seconds) {
  return seconds > 90 ? `about ${Math.round(seconds / 60)} minutes` : `about ${Math.max(1, Math.round(seconds))} s`;
}

function start(request) {
  cancel();
  clearTimeout(timer);
  texts = { said: request.output_ids ? answer.tokens.join("") : "", without: "" };
  document.body.classList.add("busy");
  $("go").disabled = true;
  $("stop").hidden = $("bar").hidden = false;
  $("bar").removeAttribute("value");
  $("part").hidden = $("link").hidden = true;
  say("Sending …");
  const began = {};
  const on = {
    waiting: (before, seconds) =>
      say(`Waiting: ${before ? `${before} before you` : "you are next"}${seconds ? `; done in ${about(seconds)}` : ""}.`),
    started: () => say("Reading the prompt …"),
    failed: (message) => finish(`This did not work: ${message}.`, true),
    event: (event) => react(event, request, began),
  };
  underway = { cancel: submit(request, on), request };
}

function cancel() {
  underway?.cancel();
  underway = null;
}

function finish(text, bad = false) {
  underway = null;
  document.body.classList.remove("busy");
  $("go").disabled = false;
  $("stop").hidden = $("bar").hidden = true;
  board.enable(Boolean(found));
  say(text, bad);
}

const reactions = {
  prompt({ pieces }, request) {
    $("stage").hidden = false;
    if (request.units) return;
    found = files = answer = null;
    out = new Set();
    for (const id of ["verdict", "table", "effects", "found"]) $(id).replaceChildren();
    $("tools").hidden = $("more").hidden = $("back").hidden = true;
    $("right").append($("search"));
    asked = request;
    board.show(pieces);
    board.enable(false);
    curve.clear(request.methods);
    showAnswers($("outputs"), texts.said, "");
  },
  text({ stage, text }) {
    texts[stage === "answering" ? "said" : "without"] = text;
    showAnswers($("outputs"), texts.said, texts.without);
  },
  answer({ ids, tokens, target }, request) {
    say(request.units ? "Asking without them …" : "Searching for what made it say this …");
    $("bar").removeAttribute("value");
    answer = { ids, tokens, target };
    texts.said = tokens.join("");
    showAnswers($("outputs"), texts.said, texts.without);
  },
  progress({ stage, done, total, method }, request, began) {
    const key = `${stage} ${method}`;
    began[key] ??= { at: performance.now(), done };
    const { at, done: first } = began[key];
    const seconds = (performance.now() - at) / 1000;
    const left = done > first && total && seconds > 1 ? (seconds * (total - done)) / (done - first) : null;
    const words = { answering: "The model writes its answer", searching: "Searching", "answering without them": "The model answers without them" };
    const who = request.methods?.length > 1 && stage === "searching" ? ` (${request.methods[method]})` : "";
    say(`${words[stage] ?? stage}${who}: ${done}${total ? ` of ${stage === "searching" ? "" : "at most "}${total}` : ""}` +
      `${left ? `, ${about(left)} left` : ""}.`);
    if (total) $("bar").value = Math.min(1, done / total);
  },
  best(best, request) {
    if (request.units) return;
    curve.add(best);
    if (best.units.length) board.press(best.units);
  },
  result(event, request) {
    files = { json: event.json, html: event.html };
    if (!request.units) {
      found = event;
      shown = 0;
      request.methods.forEach((name, i) => {
        const result = event.results.find(({ method }) => method === name);
        result ? curve.reach(i, result.evaluations) : curve.drop(i);
      });
    }
    showPart($("table"), found.table ?? "");
    showResult(event.results[0], !request.units);
    const next = request.units ? "Press more units, or go back to what the search found." :
      "Press any unit to take it out or put it back; select a part of the answer to explain only that.";
    finish(event.refused.length ? `Done, but not by ${event.refused.join("; ")}. ${next}` : `Done. ${next}`,
      event.refused.length > 0);
  },
  error: ({ message }) => finish(`This did not work: ${message}.`, true),
  stopped: ({ message }) => finish(`${message[0].toUpperCase()}${message.slice(1)}.`, true),
};

function react(event, request, began) {
  if (underway && underway.request !== request) return;
  reactions[event.kind](event, request, began);
}

// --- what was found -------------------------------------------------------------------------------------------------

function showResult(result, searched) {
  for (const name of ["verdict", "effects", "outputs", "found"]) showPart($(name), result.parts[name]);
  out = new Set(result.removed);
  board.press(result.removed, true);
  $("tools").hidden = $("more").hidden = false;
  $("back").hidden = searched;
  $("left").append($("search"));
  $("which").replaceChildren();
  if (found.results.length > 1) {
    found.results.forEach(({ method }, i) => {
      const button = element("button", { type: "button" }, `Show ${method}`);
      button.setAttribute("aria-pressed", String(searched && i === shown));
      button.addEventListener("click", () => {
        shown = i;
        restore();
        $("which").children[i].focus();
      });
      $("which").append(button);
    });
  }
}

function restore() {
  cancel();
  clearTimeout(timer);
  files = { json: found.json, html: found.html };
  showResult(found.results[shown], true);
  finish("This is what the search found.");
}

function toggle(unit) {
  if (!found) return;
  out.has(unit) ? out.delete(unit) : out.add(unit);
  board.press([...out]);
  $("back").hidden = false;
  cancel();
  clearTimeout(timer);
  finish(out.size ? "…" : "Nothing is taken out: the answer is the original one.");
  if (!out.size) return;
  timer = setTimeout(() => {
    start({
      prompt: asked.prompt, unit: asked.unit, units: [...out], output_ids: answer.ids, target: answer.target,
      removal: found.results[shown].removal, max_new_tokens: asked.max_new_tokens,
    });
    board.enable(true);
  }, DELAY);
}

function offerPart() {
  const span = answer && !underway && selectedTokens($("outputs").querySelector(".scroll"), answer.tokens);
  if (!span) return;
  const text = answer.tokens.slice(...span).join("").trim();
  $("part").hidden = false;
  $("part-go").textContent = `Explain only “${text.length > 60 ? `${text.slice(0, 59)}…` : text}”`;
  $("part-go").onclick = () => explainPart(span);
  $("part-whole").hidden = $("from").value === "";
}

function explainPart(span) {
  [$("from").value, $("to").value] = span ? [span[0] + 1, span[1]] : ["", ""];
  explain();
}

function explain() {
  const request = readForm();
  history.replaceState(null, "", link());
  start(request);
}

// --- everything that is pressed -------------------------------------------------------------------------------------

fill();
readLink();
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  explain();
});
$("ask").addEventListener("change", describe);
$("prompt").addEventListener("input", () => {
  $("from").value = $("to").value = "";
  describe();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => {
  cancel();
  finish("Stopped.");
  $("go").focus();
});
$("back").addEventListener("click", restore);
$("part-whole").addEventListener("click", () => explainPart(null));
$("copy").addEventListener("click", copyLink);
$("json").addEventListener("click", () => download("jopa.json", "application/json", files.json));
$("html").addEventListener("click", () => download("jopa.html", "text/html", files.html));
document.addEventListener("selectionchange", offerPart);
window.addEventListener("hashchange", readLink);
