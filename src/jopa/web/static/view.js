// What the page draws by itself: the prompt made of buttons, streamed answers, downloads.
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

const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;
/** Invisible characters that have a direction. */
const MARKS = { ltr: "\u200e", rtl: "\u200f" };

/** The direction of a text's first letter; undefined if it has none. */
function directionOf(text) {
  const letter = text.match(/\p{L}/u)?.[0];
  return letter && (RIGHT_TO_LEFT.test(letter) ? "rtl" : "ltr");
}

const PRESSED = {
  remove: ["take this out", "taken out; put it back"],
  mark: ["mark this as a request", "a request; press if it is none"],
};

/** The prompt, every unit a button that is pressed while the unit is taken out, or marked; arrow keys walk through them. */
export class UnitBoard {
  constructor(container, onToggle) {
    this.container = container;
    this.buttons = [];
    this.purpose = "remove";
    container.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button && button.getAttribute("aria-disabled") !== "true") onToggle(Number(button.dataset.unit));
    });
    container.addEventListener("keydown", (event) => this.#walk(event));
  }

  /** Show a prompt; `purpose` says what pressing a unit does: "remove" or "mark". */
  show(pieces, purpose = "remove") {
    this.buttons = [];
    this.purpose = purpose;
    this.container.replaceChildren();
    this.container.classList.toggle("marking", purpose === "mark");
    const bothWays = pieces.some(({ text }) => RIGHT_TO_LEFT.test(text));
    for (const piece of pieces) {
      if (piece.heading !== undefined) {
        this.container.append(element("div", { className: "origin" }, piece.heading));
      } else if (piece.unit === undefined) {
        this.container.append(piece.text);
      } else {
        const core = piece.text.trim() || piece.name;
        const at = piece.text.indexOf(core);
        const [before, after] = piece.text.trim()
          ? [piece.text.slice(0, at), piece.text.slice(at + core.length)]
          : ["", piece.text.includes("\n") ? "\n" : ""];
        const button = element("button", { type: "button", className: "unit-button", tabIndex: -1 }, core);
        button.dataset.unit = piece.unit;
        button.setAttribute("aria-pressed", "false");
        this.buttons[piece.unit] = button;
        const direction = bothWays && directionOf(core);
        if (direction) button.dir = direction;
        // A line sees no letters inside a button: without marks beside it, it runs from left to right.
        const mark = () => (direction ? element("span", { className: "mark" }, MARKS[direction]) : "");
        this.container.append(before, mark(), button, mark(), after);
      }
    }
    if (this.buttons.length) this.buttons[0].tabIndex = 0;
    this.container.scrollTop = 0;
    const length = pieces.reduce((sum, piece) => sum + piece.text.length, 0);
    this.container.classList.toggle("large", length < 240);
    this.container.classList.toggle("dense", length > 700);
  }

  /** Press the buttons of these units; their order is their rank if `ranked`. One of them is kept in sight. */
  press(units, ranked = false) {
    const ranks = new Map(units.map((unit, i) => [unit, i + 1]));
    this.buttons.forEach((button, unit) => {
      const rank = ranks.get(unit);
      button.setAttribute("aria-pressed", String(rank !== undefined));
      button.querySelector("sup")?.remove();
      button.title = PRESSED[this.purpose][Number(rank !== undefined)];
      if (rank !== undefined && ranked) button.append(element("sup", {}, String(rank)));
    });
    this.#reveal(units.map((unit) => this.buttons[unit]).filter(Boolean));
  }

  enable(enabled) {
    for (const button of this.buttons) button.setAttribute("aria-disabled", String(!enabled));
  }

  /** Scroll the first of these buttons into sight, inside the prompt alone, unless one of them is seen already. */
  #reveal(buttons) {
    const pane = this.container.getBoundingClientRect();
    const seen = ({ top, bottom }) => top >= pane.top && bottom <= pane.bottom;
    const places = buttons.map((button) => button.getBoundingClientRect());
    if (!places.length || places.some(seen)) return;
    this.container.scrollTop += places[0].top - pane.top - pane.height / 3;
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

/** The two answers while they are written; only the first where `without` is null. */
export function showAnswers(container, said, without) {
  let scrolls = container.querySelectorAll(".writing .scroll");
  const columns = without === null ? 1 : 2;
  if (scrolls.length !== columns) {
    const column = (title) =>
      element("section", {},
        element("div", { className: "head" }, element("h2", { className: "title" }, title)),
        element("div", { className: "scroll text", dir: "auto", translate: false, role: "region", tabIndex: 0, ariaLabel: title }));
    container.replaceChildren(
      element("div", { className: "pair said writing" },
        ...["What the model said", "What it says without them"].slice(0, columns).map(column)),
    );
    scrolls = container.querySelectorAll(".scroll");
  }
  [said, without].slice(0, columns).forEach((text, i) => {
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
  if (!inside.length) return null;
  let first = inside[0];
  while (first && !tokens[first - 1]) first -= 1; // the first parts of a character that its last token shows
  return [first, inside.at(-1) + 1];
}

export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
