// What the page draws by itself: the prompt made of buttons, the live curve, streamed answers, downloads.
// Text from people and models only ever enters as text nodes; `showPart` takes HTML that the server has escaped.

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function showPart(container, html) {
  container.innerHTML = html;
}

const SVG = "http://www.w3.org/2000/svg";

function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

export const nats = (value) => value.toFixed(2).replace("-", "−");

/** The prompt, every unit a button that is pressed while the unit is taken out; arrow keys walk through them. */
export class UnitBoard {
  constructor(container, onToggle) {
    this.container = container;
    this.buttons = [];
    this.names = [];
    container.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button && button.getAttribute("aria-disabled") !== "true") onToggle(Number(button.dataset.unit));
    });
    container.addEventListener("keydown", (event) => this.#walk(event));
  }

  show(pieces) {
    this.buttons = [];
    this.names = [];
    this.container.replaceChildren();
    for (const piece of pieces) {
      if (piece.unit === undefined) {
        this.container.append(piece.text);
        continue;
      }
      const core = piece.text.trim() || piece.name;
      const [before, after] = piece.text.trim() ? piece.text.split(core) : ["", piece.text.includes("\n") ? "\n" : ""];
      const button = element("button", { type: "button", className: "unit-button", tabIndex: -1 }, core);
      button.dataset.unit = piece.unit;
      button.setAttribute("aria-pressed", "false");
      this.buttons[piece.unit] = button;
      this.names[piece.unit] = piece.name;
      this.container.append(before, button, after);
    }
    if (this.buttons.length) this.buttons[0].tabIndex = 0;
    const length = pieces.reduce((sum, piece) => sum + piece.text.length, 0);
    this.container.classList.toggle("large", length < 240);
    this.container.classList.toggle("dense", length > 700);
  }

  /** Press the buttons of these units; their order is their rank if `ranked`. */
  press(units, ranked = false) {
    const ranks = new Map(units.map((unit, i) => [unit, i + 1]));
    this.buttons.forEach((button, unit) => {
      const rank = ranks.get(unit);
      button.setAttribute("aria-pressed", String(rank !== undefined));
      button.querySelector("sup")?.remove();
      button.title = rank === undefined ? "take this out" : "taken out; put it back";
      if (rank !== undefined && ranked) button.append(element("sup", {}, String(rank)));
    });
  }

  enable(enabled) {
    for (const button of this.buttons) button.setAttribute("aria-disabled", String(!enabled));
  }

  #walk(event) {
    const at = this.buttons.indexOf(event.target.closest("button"));
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const to = { Home: 0, End: this.buttons.length - 1 }[event.key] ?? at + step;
    if (at < 0 || !this.buttons[to]) return;
    event.preventDefault();
    this.buttons[at].tabIndex = -1;
    this.buttons[to].tabIndex = 0;
    this.buttons[to].focus();
  }
}

/** The score of the best units so far, against the number of prompts tried: one stepped line a method. */
export class Curve {
  constructor(container) {
    this.container = container;
    this.clear();
  }

  clear(methods = []) {
    this.methods = [...methods];
    this.whole = null;
    this.reached = 0;
    this.lines = methods.map(() => []);
    this.container.replaceChildren();
  }

  add(best) {
    if (!best.units.length) this.whole = best.log_prob;
    this.lines[best.method].push([best.evaluations, best.log_prob]);
    this.#draw();
  }

  /** How many prompts a method has tried in the end. */
  reach(method, evaluations) {
    this.reached = Math.max(this.reached, evaluations);
    if (this.lines[method]?.length) this.#draw();
  }

  /** A method that could not explain this leaves the picture. */
  drop(method) {
    this.methods[method] = null;
    this.lines[method] = [];
    this.#draw();
  }

  #draw() {
    const all = this.lines.flat();
    const tried = Math.max(this.reached, ...all.map(([x]) => x));
    const right = 1.04 * Math.max(2, tried);
    const values = all.map(([, y]) => y);
    const high = Math.max(...values);
    const low = Math.min(...values);
    const across = (x) => ((100 * x) / right).toFixed(2);
    const down = (y) => (96 * ((high - y) / (high - low || 1)) + 2).toFixed(2);
    const svg = shape("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img" });
    svg.setAttribute("aria-label", this.#words());
    svg.append(shape("line", { x1: 0, x2: 100, y1: down(this.whole), y2: down(this.whole) }));
    this.lines.forEach((line, method) => {
      if (!line.length) return;
      const points = line.flatMap(([x, y], i) => (i ? [[x, line[i - 1][1]], [x, y]] : [[x, y]]));
      points.push([right, line.at(-1)[1]]);
      const path = points.map(([x, y]) => `${across(x)},${down(y)}`).join(" ");
      svg.append(shape("polyline", { points: path, class: method ? "second" : "first" }));
    });
    const axis = (place, ...labels) =>
      element("div", { className: `axis ${place}` }, ...labels.map((label) => element("span", {}, label)));
    const legend = element("p", { className: "note legend" });
    if (this.methods.filter(Boolean).length > 1) {
      this.methods.forEach((name, i) => legend.append(element("span", { className: i ? "second" : "first" }, name)));
    }
    this.container.replaceChildren(
      element("div", { className: "frame", ariaHidden: "false" },
        axis("up", nats(high), nats(low)), svg, axis("along", "0", `${tried} prompts tried`)),
      legend,
    );
  }

  #words() {
    return this.lines
      .map((line, i) => line.length &&
        `${this.methods[i]}: log-probability of the answer from ${nats(line[0][1])} down to ${nats(line.at(-1)[1])} nats ` +
        `after ${line.at(-1)[0]} prompts`)
      .filter(Boolean)
      .join("; ");
  }
}

/** The two answers while they are written. */
export function showAnswers(container, said, without) {
  let scrolls = container.querySelectorAll(".writing .scroll");
  if (!scrolls.length) {
    const column = (title) =>
      element("section", {},
        element("div", { className: "head" }, element("h2", { className: "title" }, title)),
        element("div", { className: "scroll text", dir: "auto", translate: false }));
    container.replaceChildren(
      element("div", { className: "pair said writing" }, column("What the model said"), column("What it says without them")),
    );
    scrolls = container.querySelectorAll(".scroll");
  }
  [said, without].forEach((text, i) => {
    if (scrolls[i].textContent === text) return;
    scrolls[i].textContent = text;
    scrolls[i].scrollTop = scrolls[i].scrollHeight;
  });
}

/** Which tokens `[start, end)` of the answer are selected in its element; null if none. The blank that a token begins with
 * does not count: who selects a word and the blank behind it means the word. */
export function selectedTokens(answer, tokens) {
  const selection = document.getSelection();
  if (!answer || !selection.rangeCount || selection.isCollapsed) return null;
  const range = selection.getRangeAt(0);
  if (!answer.contains(range.startContainer) || !answer.contains(range.endContainer)) return null;
  const before = document.createRange();
  before.setStart(answer, 0);
  before.setEnd(range.startContainer, range.startOffset);
  const from = before.toString().length;
  const to = from + range.toString().length;
  let at = 0;
  const inside = [];
  tokens.forEach((text, i) => {
    if (text.slice(Math.max(from - at, 0), Math.max(to - at, 0)).trim()) inside.push(i);
    at += text.length;
  });
  return inside.length ? [inside[0], inside.at(-1) + 1] : null;
}

export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
