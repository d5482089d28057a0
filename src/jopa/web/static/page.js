// The page: what the visitor asks, what is under way, and what becomes of it. The server keeps nothing between requests,
// so each request brings along what it builds on.

import { Conversation, lastSaid } from "./chat.js";
import { describe, fillForm, formValues, link, readForm, readLink, sameAnswer, setFormValues, setup } from "./form.js";
import { forgetAll, forgetRun, keepRun, runs } from "./history.js";
import { checked, submit } from "./queue.js";
import { Stage } from "./stage.js";
import { $, element, selectedTokens } from "./view.js";

const DELAY = 500; // milliseconds from the last press of a unit to the request

let underway = null; // { cancel, request }
let kept = null; // { json, title }: the result to compare the next prompt's with
let timer = 0;
let clock = 0;

const stage = new Stage(askAgain);
const conversation = new Conversation(setup.limits, setup.roles, {
  changed: update,
  failed: (message) => say(`This file cannot be used: ${message}.`, true),
  read: (what) => underway || say(`Read: ${what}.`),
  messages(chat) {
    conversation.set({ ...chat, documents: conversation.value().documents });
    $("prompt").value = chat.prompt;
    update();
  },
  result: (text) => showKept(text, null),
});

function update() {
  describe(conversation, kept !== null);
}

// --- what is said beside the button ------------------------------------------------------------------------------------

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function about(seconds) {
  return seconds > 90 ? `about ${Math.round(seconds / 60)} minutes` : `about ${Math.max(1, Math.round(seconds))} s`;
}

function minutes(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** Show how much of the time for one request is left. */
function startClock() {
  const began = performance.now();
  const tick = () => {
    const left = setup.limits.seconds - (performance.now() - began) / 1000;
    $("clock").textContent = `at most ${minutes(left)} left`;
  };
  clearInterval(clock);
  clock = setInterval(tick, 1000);
  tick();
}

// --- asking ----------------------------------------------------------------------------------------------------------

/** Send a request; `follows` says that it builds on the result that is shown. */
function start(request, follows = false) {
  cancel();
  stage.texts = { said: request.output_ids ? stage.answer.tokens.join("") : "", without: "" };
  document.body.classList.add("busy");
  $("go").disabled = true;
  $("stop").hidden = $("bar").hidden = false;
  $("bar").removeAttribute("value");
  $("part").hidden = $("link").hidden = true;
  say("Sending …");
  const run = { request, follows, began: {}, form: formValues(conversation) };
  const on = {
    waiting: (before, seconds) =>
      say(`Waiting: ${before ? `${before} before you` : "you are next"}${seconds ? `; done in ${about(seconds)}` : ""}.`),
    started: () => {
      startClock();
      say("Reading the prompt …");
    },
    failed: (message) => finish(`This did not work: ${message}.`, true),
    event: (event) => underway?.request === request && reactions[event.kind](event, run),
  };
  underway = { cancel: submit(request, on), request };
}

function cancel() {
  clearTimeout(timer);
  underway?.cancel();
  underway = null;
}

function finish(text, bad = false) {
  underway = null;
  clearInterval(clock);
  $("clock").textContent = "";
  document.body.classList.remove("busy");
  document.body.classList.toggle("outdated", stage.isOutdated);
  $("go").disabled = false;
  $("stop").hidden = $("bar").hidden = true;
  stage.board.enable(Boolean(stage.found && stage.answer?.ids.length));
  say(text, bad);
}

const STAGES = {
  answering: "The model writes its answer",
  searching: "Searching",
  diagnosing: "Removing each unit",
  citing: "Looking for the sources of each sentence",
  "answering without them": "The model answers without them",
};

const reactions = {
  prompt({ pieces, methods }, { request, follows }) {
    if (follows) return;
    $("context").open = $("history").open = false; // what was found stands below them
    stage.begin({ ...request, methods: request.task === "explain" ? methods : [] }, pieces, methods);
  },
  level: ({ pieces, spans }) => stage.level(pieces, spans),
  text({ stage: name, text }) {
    stage.texts[name === "answering" ? "said" : "without"] = text;
    stage.write();
  },
  answer({ ids, tokens, target, before }, { request, follows }) {
    if (request.task === "explain") say(follows ? "Asking without them …" : "Searching for what made it say this …");
    $("bar").removeAttribute("value");
    stage.hear({ ids, tokens, target, before });
  },
  progress({ stage: name, done, total, method }, { began }) {
    const key = `${name} ${method}`;
    began[key] ??= { at: performance.now(), done };
    const { at, done: first } = began[key];
    const seconds = (performance.now() - at) / 1000;
    const left = done > first && total && seconds > 1 ? (seconds * (total - done)) / (done - first) : null;
    const who = stage.request?.methods.length > 1 && name.startsWith("searching") ? ` (${stage.request.methods[method]})` : "";
    const amount = done || total ? `: ${done}${total ? ` of ${name.startsWith("searching") ? "" : "at most "}${total}` : ""}` : " …";
    say(`${STAGES[name] ?? `${name[0].toUpperCase()}${name.slice(1)}`}${who}${amount}${left ? `, ${about(left)} left` : ""}${amount.endsWith("…") ? "" : "."}`);
    if (total) $("bar").value = Math.min(1, done / total);
  },
  best(best, { follows }) {
    if (!follows) stage.best(best);
  },
  result(event, { request, follows, form }) {
    stage.show(event, follows);
    if (!follows) remember(request, form, event);
    const next = event.task === "diagnose" ? "Press the units that are requests, if others are marked." :
      event.task === "cite" ? "Point at a sentence of the answer, or move to it with the Tab key: its sources light up." :
      follows ? "Press more units, or go back to what the search found." :
      "Press any unit to take it out or put it back; select a part of the answer to explain only that.";
    finish(event.refused.length ? `Done, but not by ${event.refused.join("; ")}. ${next}` : `Done. ${next}`, event.refused.length > 0);
  },
  error: ({ message }) => finish(`This did not work: ${message}.`, true),
  stopped: ({ message }) => finish(`${message[0].toUpperCase()}${message.slice(1)}.`, true),
};

function explain() {
  const request = readForm(conversation);
  if (stage.answer?.ids.length && sameAnswer(stage.request, request)) request.output_ids = stage.answer.ids;
  if (kept && request.task === "explain") request.first = kept.json;
  history.replaceState(null, "", link(conversation).address);
  start(request);
}

/** After units were pressed: ask for the answer without them, or for the diagnosis with these requests. */
function askAgain() {
  cancel();
  const units = [...stage.pressed];
  const none = stage.isDiagnosis ? "Nothing is marked: mark at least one request." : "Nothing is taken out: the answer is the original one.";
  finish(units.length ? "…" : none);
  if (!units.length) return;
  timer = setTimeout(() => {
    const { first, k, until_pr, budget, methods, refine, ...request } = stage.request;
    if (stage.spans) request.unit = stage.spans;
    const what = stage.isDiagnosis ? { requests: units } : { units, removal: stage.found.results[stage.shown].removal };
    start({ ...request, ...what, output_ids: stage.answer.ids, target: stage.targetInOutput(stage.answer.target) }, true);
    stage.board.enable(true);
  }, DELAY);
}

// --- a part of the answer ----------------------------------------------------------------------------------------------

function offerPart() {
  const usable = stage.answer?.ids.length && !underway;
  const span = usable && selectedTokens($("outputs").querySelector(".scroll"), stage.answer.tokens);
  if (!span) return;
  const text = stage.answer.tokens.slice(...span).join("").trim();
  $("part").hidden = false;
  $("part-go").textContent = `Explain only “${text.length > 60 ? `${text.slice(0, 59)}…` : text}”`;
  $("part-go").onclick = () => explainPart(span);
  $("part-whole").hidden = $("from").value === "";
}

function explainPart(span) {
  const [from, to] = span ? stage.targetInOutput(span) : [];
  [$("from").value, $("to").value] = span ? [from + 1, to] : ["", ""];
  update();
  explain();
}

// --- two prompts, and the last runs --------------------------------------------------------------------------------------

function keepPrompt() {
  kept = { json: stage.attribution(), title: titleOf(stage.request) };
  $("kept").hidden = false;
  $("kept-words").textContent = `Kept to compare with: “${kept.title}”. Change the prompt and explain it.`;
  update();
  $("prompt").focus();
}

function letGo() {
  kept = null;
  $("kept").hidden = true;
  update();
}

function titleOf({ prompt, turns, messages }) {
  const text = (prompt.trim() || turns?.at(-1)?.content || (messages && lastSaid(messages)) || "").replace(/\s+/g, " ").trim();
  return text.length > 70 ? `${text.slice(0, 69)}…` : text;
}

function remember(request, form, event) {
  const kind = { diagnose: "diagnosis", cite: "citations" }[event.task] ?? (event.prompts ? "two prompts" : "explanation");
  keepRun({ title: titleOf(request), kind, at: Date.now(), form, json: event.json });
  showRuns();
}

function showRuns() {
  const found = runs();
  $("history").hidden = !found.length;
  $("history-count").textContent = `${found.length}`;
  $("runs").replaceChildren(
    ...found.map((run, i) => {
      const when = new Date(run.at).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
      const open = element("button", { type: "button", className: "run", title: run.title }, run.title);
      const remove = element("button", { type: "button", className: "remove", ariaLabel: `Forget run ${i + 1}` }, "×");
      open.addEventListener("click", () => openRun(run));
      remove.addEventListener("click", () => {
        forgetRun(i);
        showRuns();
        ($("runs").children[i] ?? $("runs").lastElementChild)?.querySelector(".remove").focus();
      });
      return element("li", {}, open, element("span", { className: "note" }, `${run.kind}, ${when}`), remove);
    }),
  );
}

function openRun(run) {
  setFormValues(run.form, conversation);
  update();
  if (run.json === null) return say("The result of this run was too long to keep; explain it again.");
  showKept(run.json, readForm(conversation));
}

/** Show a result again that was kept in the browser or in a file; without its request it cannot be built on. */
async function showKept(json, request) {
  cancel();
  finish("Opening …");
  const abort = new AbortController();
  underway = { cancel: () => abort.abort() };
  try {
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify({ json });
    const response = await checked(await fetch("results", { method: "POST", headers, body, signal: abort.signal }));
    const [{ pieces, spans }, answer, result] = (await response.json()).events;
    const methods = result.results?.map(({ method }) => method) ?? [];
    stage.texts = { said: answer.tokens.join(""), without: "" };
    const prompt = pieces.map(({ text }) => text).join("");
    stage.begin({ prompt, ...request, task: result.task, methods }, pieces, methods, spans);
    stage.hear(request ? answer : { ...answer, ids: [] });
    stage.show({ ...result, json }, false);
    if (!request) stage.withoutRequest();
    finish(request ? "This is what was found then." : "This is the result of the file.");
  } catch (error) {
    if (abort.signal.aborted) return;
    finish(`This result cannot be shown: ${error instanceof TypeError ? "the server cannot be reached" : error.message}.`, true);
  }
}

async function copyLink() {
  const { address, whole } = link(conversation);
  const note = whole ? "" : " It leaves out the conversation and the documents, which are too long for a link.";
  try {
    await navigator.clipboard.writeText(address);
    say(`The link is in the clipboard.${note}`);
  } catch {
    $("link").hidden = false; // no clipboard without HTTPS
    $("link").value = address;
    $("link").select();
    say(`Here is the link; copy it from the field.${note}`);
  }
}

// --- everything that is pressed -------------------------------------------------------------------------------------

fillForm();
readLink(conversation);
update();
showRuns();
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  explain();
});
$("ask").addEventListener("change", update);
$("ask").addEventListener("invalid", ({ target }) => {
  const around = target.closest("details");
  if (around) around.open = true; // a browser says nothing of a field that it cannot show
}, true);
$("until").addEventListener("input", update);
$("prompt").addEventListener("input", () => {
  $("from").value = $("to").value = "";
  update();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => {
  cancel();
  finish("Stopped.");
  $("go").focus();
});
$("back").addEventListener("click", () => {
  cancel();
  stage.restore();
  finish("This is what was found first.");
});
for (const task of ["explain", "diagnose", "cite"]) {
  $(task).addEventListener("click", () => {
    $("task").value = task;
    update();
    $("ask").requestSubmit(); // which checks the numbers first
  });
}
$("keep").addEventListener("click", keepPrompt);
$("let-go").addEventListener("click", letGo);
$("clear-history").addEventListener("click", () => {
  forgetAll();
  showRuns();
  $("prompt").focus();
});
$("part-whole").addEventListener("click", () => explainPart(null));
$("copy").addEventListener("click", copyLink);
document.addEventListener("selectionchange", offerPart);
window.addEventListener("hashchange", () => {
  setFormValues({}, conversation);
  readLink(conversation);
  update();
});
window.addEventListener("storage", showRuns);
