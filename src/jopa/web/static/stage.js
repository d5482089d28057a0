// What is shown of one run: the prompt made of buttons, the search as it goes on, and what was found.

import { Curve } from "./curve.js";
import { $, UnitBoard, download, element, showAnswers, showPart } from "./view.js";

const PARTS = ["verdict", "table", "effects", "levels", "found", "in-place", "prompts", "report"];
const NOTES = {
  remove: ["press what to take out", "taken out"],
  mark: ["press what is a request", "request"],
};

export class Stage {
  /** @param onToggle called after a unit was pressed. */
  constructor(onToggle) {
    this.board = new UnitBoard($("units"), (unit) => this.#toggle(unit));
    this.curve = new Curve($("curve"));
    this.onToggle = onToggle;
    this.request = null; // whose answer is shown
    this.spans = null; // of the units that are shown, where they are not all of their kind
    this.answer = null; // { ids, tokens, target, before }
    this.found = null; // the result event of the search
    this.shown = 0; // which of its results, if two methods were compared
    this.pressed = new Set(); // units taken out, or marked as requests
    this.drawn = []; // those that the result below them is about
    this.files = null; // { json, html } to download
    this.texts = { said: "", without: "" };
    $("json").addEventListener("click", () => download("jopa.json", "application/json", this.files.json));
    $("html").addEventListener("click", () => download("jopa.html", "text/html", this.files.html));
  }

  get isDiagnosis() {
    return this.request?.task === "diagnose";
  }

  /** Whether the result that is shown is about other units than those that are pressed. */
  get isOutdated() {
    return Boolean(this.found) && (this.drawn.length !== this.pressed.size || this.drawn.some((unit) => !this.pressed.has(unit)));
  }

  /** Begin a run: everything of the last one goes, its answer excepted if it is kept. */
  begin(request, pieces, methods, spans = null) {
    this.request = request;
    this.spans = spans;
    this.found = this.files = this.answer = null;
    this.pressed = new Set();
    $("intro").hidden = true;
    $("stage").hidden = false;
    $("stage").className = request.task;
    for (const id of PARTS) $(id).replaceChildren();
    for (const id of ["tools", "more", "back", "part"]) $(id).hidden = true;
    $("which").replaceChildren();
    $("right").append($("search"));
    $("search").hidden = Boolean(request.until_pr);
    const [note, key] = NOTES[this.isDiagnosis ? "mark" : "remove"];
    $("units-note").replaceChildren(`${note} `, element("span", { className: "key" }, key));
    this.board.show(pieces, this.isDiagnosis ? "mark" : "remove");
    this.board.enable(false);
    for (const id of ["explain", "diagnose", "cite"]) $(id).hidden = request.task === id;
    $("copy").hidden = false;
    $("cite").hidden ||= !request.documents?.length;
    $("keep").hidden = request.task !== "explain";
    this.curve.clear(methods);
    this.write();
  }

  /** The result is a file's: the form does not hold its question, so nothing can be built on it. */
  withoutRequest() {
    for (const id of ["explain", "diagnose", "cite", "copy"]) $(id).hidden = true;
    $("units-note").firstChild.remove(); // the key stays
  }

  /** Other units, a curve of their own: the next level of a search from coarse to fine, or the reasoning trace. */
  level(pieces, spans) {
    this.spans = spans;
    this.board.show(pieces, "remove");
    this.board.enable(false);
    this.curve.clear(this.curve.methods);
  }

  write() {
    showAnswers($("outputs"), this.texts.said, this.request.task === "explain" ? this.texts.without : null);
  }

  /** Where tokens of the answer lie in the model's whole output, which may begin with the reasoning that is explained. */
  targetInOutput([start, end]) {
    return [start + this.answer.before, end + this.answer.before];
  }

  hear(answer) {
    this.answer = answer;
    this.texts.said = answer.tokens.join("");
    this.write();
  }

  best(best) {
    if (this.request.until_pr && best.units.length) return; // not of the size that is found in the end
    this.curve.add(best);
    if (best.units.length) this.board.press(best.units);
  }

  /** A result; `follows` says that it builds on the one that is shown, by units that the visitor pressed. */
  show(event, follows) {
    this.files = { json: event.json, html: event.html };
    if (event.report !== undefined) return this.#showReport(event, follows);
    if (!follows) {
      this.found = event;
      this.shown = 0;
      this.curve.methods.forEach((name, i) => {
        const result = event.results.find(({ method }) => method === name);
        result ? this.curve.reach(i, result.evaluations) : this.curve.drop(i);
      });
      showPart($("table"), event.table ?? "");
      showPart($("prompts"), event.prompts ?? "");
      for (const pane of $("prompts").querySelectorAll(".scroll")) showChange(pane);
    }
    this.#showResult(event.results[0], !follows);
  }

  /** Back to what the search found. */
  restore() {
    this.files = { json: this.found.json, html: this.found.html };
    if (this.found.report !== undefined) this.#showReport(this.found, false);
    else this.#showResult(this.found.results[this.shown], true);
  }

  /** The JSON of the one explanation that is shown, as the search found it. */
  attribution() {
    const record = JSON.parse(this.found.json);
    return JSON.stringify(record.comparison?.[this.shown] ?? record.second ?? record);
  }

  #toggle(unit) {
    if (!this.found || !this.answer?.ids.length) return;
    this.pressed.has(unit) ? this.pressed.delete(unit) : this.pressed.add(unit);
    this.board.press([...this.pressed]);
    $("back").hidden = false;
    this.onToggle();
  }

  /** A diagnosis or citations. */
  #showReport(event, follows) {
    if (!follows) this.found = event;
    this.drawn = event.requests ?? [];
    this.pressed = new Set(this.drawn);
    this.board.press([...this.pressed]);
    showPart($("report"), event.report);
    $("tools").hidden = false;
    $("back").hidden = !follows;
    $("back").textContent = "Back to the requests of the first diagnosis";
    if (event.task === "cite") $("outputs").replaceChildren(); // the report shows the answer
    else this.write();
  }

  #showResult(result, searched) {
    for (const name of ["verdict", "effects", "levels", "outputs", "found"]) showPart($(name), result.parts[name]);
    showPart($("in-place"), result.parts.in_place);
    this.drawn = result.removed;
    this.pressed = new Set(this.drawn);
    this.board.press(result.removed, true);
    $("tools").hidden = $("more").hidden = false;
    $("back").hidden = searched;
    $("back").textContent = "Back to what the search found";
    $("left").append($("search"));
    $("search").hidden = !this.curve.hasSteps;
    this.#showChoice(searched);
  }

  /** Buttons that choose between the results of two methods. */
  #showChoice(searched) {
    $("which").replaceChildren();
    if (this.found.results.length < 2) return;
    this.found.results.forEach(({ method }, i) => {
      const button = element("button", { type: "button" }, `Show ${method}`);
      button.setAttribute("aria-pressed", String(searched && i === this.shown));
      button.addEventListener("click", () => {
        this.shown = i;
        this.restore();
        $("which").children[i].focus();
      });
      $("which").append(button);
    });
  }
}

/** Scroll a pane to the first difference in it. */
function showChange(pane) {
  const change = pane.querySelector("del, ins");
  if (change) pane.scrollTop = change.getBoundingClientRect().top - pane.getBoundingClientRect().top - pane.clientHeight / 3;
}
