// The form: what can be chosen, what is asked, and a link that brings the question along.

import { $, element } from "./view.js";

export const setup = JSON.parse($("setup").textContent);
const methods = new Map(setup.methods.map((method) => [method.name, method]));

const FIELDS = ["prompt", "k", "unit", "refine", "method", "other", "removal", "budget", "length", "from", "to", "until", "task", "attribute"];
/** Characters of a conversation that still goes into a link. */
const LINKED = 6000;
/** What may be searched inside the chosen units; the coarse ones first. */
const REFINED = [["sentence"], ["sentence", "word"], ["word"], ["line"], ["paragraph"], ["paragraph", "sentence"], ["token"]];
const GRAIN = ["message", "paragraph", "line", "sentence", "word", "token"];
const GO = { explain: "Explain the answer", diagnose: "Diagnose the answer", cite: "Cite the documents" };

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => element("option", { value }, text)));
  select.value = chosen;
}

export function fillForm() {
  options($("unit"), setup.units.map(({ name, words }) => [name, words]), "auto");
  options($("refine"), [["auto", "what fits"], ["", "nothing"], ...REFINED.map((kinds) => [kinds.join(","), kinds.map((kind) => `${kind}s`).join(", then ")])], "auto");
  options($("method"), [["", "the method that fits"], ...setup.methods.map(({ name }) => [name, name])], "");
  options($("other"), [["", "nothing"], ...setup.methods.map(({ name }) => [name, name])], "");
  options($("removal"), [["", "the method's own"], ...setup.removals.map(({ name }) => [name, name])], "");
  options($("attribute"), [["", "what fits: the documents, or else the prompt"], ...setup.attributes.map(({ name, words }) => [name, words])], "");
  for (const text of setup.examples) {
    const button = element("button", { type: "button", className: "example", title: text }, text);
    button.addEventListener("click", () => {
      $("prompt").value = text;
      $("prompt").dispatchEvent(new Event("input"));
      $("prompt").focus();
    });
    $("examples").append(button);
  }
}

function number(id) {
  return $(id).value === "" ? null : Number($(id).value);
}

/** The form as a request, without the answer that it may build on. */
export function readForm(conversation) {
  const { system, turns, messages, documents } = conversation.value();
  const request = {
    prompt: $("prompt").value,
    ...(messages && { messages }),
    ...(system.trim() && { system }),
    ...(turns.length && { turns }),
    ...(documents.length && { documents }),
    ...($("attribute").value && { attribute: $("attribute").value }),
    task: $("task").value,
    unit: $("unit").value,
    ...($("refine").value !== "auto" && { refine: $("refine").value.split(",").filter(Boolean) }),
    k: number("k"),
    until_pr: number("until"),
    methods: [$("method").value, $("other").value].filter(Boolean),
    removal: $("removal").value || null,
    budget: number("budget"),
    max_new_tokens: number("length"),
  };
  if (request.methods.length === 1 && !$("method").value) request.methods.unshift("joint");
  if (request.task !== "explain") Object.assign(request, { methods: [], k: null, budget: null, refine: undefined });
  if (request.task === "diagnose") request.until_pr = null;
  const [from, to] = [number("from"), number("to")];
  if (from !== null && to !== null) request.target = [from - 1, to];
  return request;
}

/** Whether two requests have the same answer. */
export function sameAnswer(one, other) {
  const of = ({ prompt, system, turns, messages, documents, max_new_tokens }) =>
    JSON.stringify([prompt, system, turns, messages, documents, max_new_tokens]);
  return of(one) === of(other);
}

/** All that the visitor has filled in, to be kept and put back. */
export function formValues(conversation) {
  return { ...Object.fromEntries(FIELDS.map((id) => [id, $(id).value])), ...conversation.value() };
}

/** Put back what `formValues` gave; whatever has another shape is left out. */
export function setFormValues(values, conversation) {
  for (const id of FIELDS) setField(id, typeof values[id] === "string" ? values[id] : $(id).dataset.usual ?? "");
  conversation.set(isConversation(values) ? values : {});
}

function isConversation({ system, turns, documents, messages }) {
  const isText = (value) => value === undefined || typeof value === "string";
  return (
    typeof system === "string" && isText(messages) && Array.isArray(turns) && Array.isArray(documents) &&
    turns.length <= setup.limits.turns && documents.length <= setup.limits.documents &&
    turns.every((turn) => setup.roles.includes(turn?.role) && typeof turn.content === "string") &&
    documents.every((one) => typeof one?.text === "string" && isText(one.id) && isText(one.title))
  );
}

function setField(id, value) {
  const before = $(id).value;
  $(id).value = value;
  if ($(id).value !== value && $(id).tagName === "SELECT") $(id).value = before; // no such choice
}

export function describe(conversation, kept) {
  conversation.describe();
  const searches = $("task").value === "explain";
  const own = $("method").value;
  // A comparison has one search for all, so there "the method that fits" is joint; no method is compared with itself.
  for (const option of $("other").options) option.disabled = option.value !== "" && option.value === (own || "joint");
  if ($("other").selectedOptions[0]?.disabled) $("other").value = "";
  const compared = $("other").value !== "";
  const method = methods.get(own || (compared ? "joint" : ""));
  const other = methods.get($("other").value);
  const fits = !method || method.budget || other?.budget;
  $("method-words").textContent = method ? `${method.name}: ${method.words}. Cost: ${method.cost}.` : `The method that fits: joint, and proxy-search for inputs of ${setup.long.toLocaleString("en")} tokens or more.`;
  $("budget-words").textContent = fits ? `1 to ${setup.limits.budget}` : "this method's cost is fixed";
  $("removal-words").textContent = setup.removals.find(({ name }) => name === $("removal").value)?.words ?? "";
  for (const option of $("refine").options) {
    const grain = GRAIN.indexOf(option.value.split(",")[0]);
    option.disabled = grain >= 0 && grain <= Math.max(0, GRAIN.indexOf($("unit").value));
  }
  const oneLevel = compared || $("attribute").value === "trace";
  if ($("refine").selectedOptions[0]?.disabled || oneLevel) $("refine").value = "auto";
  $("refine").disabled = !searches || oneLevel;
  $("until").disabled = $("task").value === "diagnose";
  $("method").disabled = !searches;
  $("other").disabled = !searches || kept;
  if ($("other").disabled) $("other").value = "";
  $("budget").disabled = !searches || !fits;
  $("from").required = $("to").value !== "";
  $("to").required = $("from").value !== "";
  $("to").min = $("from").value || 1;
  $("k").disabled = !searches || $("until").value !== "";
  $("go").textContent = GO[$("task").value];
  const { characters, tokens } = setup.limits;
  const length = [...$("prompt").value].length + conversation.length();
  const [has, most, inAll] = [length, characters, tokens].map((value) => value.toLocaleString("en"));
  $("count").textContent = `${has} of at most ${most} characters; ${inAll} tokens with the answer`;
  $("count").classList.toggle("over", length > characters);
}

/** The form as a link; `whole` is false where the conversation is too long for one. */
export function link(conversation) {
  const values = FIELDS.map((id) => [id, $(id).value]).filter(([id, value]) => value !== ($(id).dataset.usual ?? ""));
  const context = JSON.stringify(conversation.value());
  const whole = context.length <= LINKED;
  if (whole && conversation.length()) values.push(["context", context]);
  return { address: `${location.origin}${location.pathname}#${new URLSearchParams(values)}`, whole };
}

/** Read a link; a conversation in it must have the form's own shape. */
export function readLink(conversation) {
  for (const [id, value] of new URLSearchParams(location.hash.slice(1))) {
    if (FIELDS.includes(id)) setField(id, value);
    if (id === "context") readContext(value, conversation);
  }
}

function readContext(text, conversation) {
  try {
    const values = JSON.parse(text);
    if (isConversation(values)) conversation.set(values);
  } catch {
    // a link that was cut off or written by hand: the rest of it counts
  }
}
