// The live curve of a search.

import { element } from "./view.js";

const SVG = "http://www.w3.org/2000/svg";

function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

export const nats = (value) => value.toFixed(2).replace(/^-0\.00$/, "0.00").replace("-", "−");

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

  /** Whether any method was seen to find something. */
  get hasSteps() {
    return this.lines.some((line) => line.length > 1);
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
    const tries = `${tried} ${tried === 1 ? "prompt" : "prompts"} tried`;
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
        axis("up", nats(high), nats(low) === nats(high) ? "" : nats(low)), svg, axis("along", "0", tries)),
      legend,
    );
  }

  #words() {
    return this.lines
      .map((line, i) => line.length &&
        `${this.methods[i]}: log-probability of the answer from ${nats(line[0][1])} down to ${nats(line.at(-1)[1])} nats ` +
        `after ${line.at(-1)[0]} ${line.at(-1)[0] === 1 ? "prompt" : "prompts"}`)
      .filter(Boolean)
      .join("; ");
  }
}
