// The conversation around the prompt: system message, earlier turns, documents; typed, pasted, or read from files.

import { $, element } from "./view.js";

const NAME = { user: "User", assistant: "Assistant", tool: "Tool" };

function count(n, one, many = `${one}s`) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

/** The documents of a JSONL file: a text a line, or an object with "text" and perhaps "id" and "title". */
function readLines(text, file) {
  const documents = [];
  for (const [i, line] of text.split(/\r?\n/).entries()) {
    if (!line.trim()) continue;
    let value;
    try {
      value = JSON.parse(line);
    } catch {
      throw new Error(`line ${i + 1} of ${file} is no JSON`);
    }
    if (typeof value === "string") value = { text: value };
    if (typeof value?.text !== "string") throw new Error(`line ${i + 1} of ${file} has no "text"`);
    if (!value.text.trim()) throw new Error(`line ${i + 1} of ${file} has an empty "text"`);
    documents.push({ text: value.text, id: value.id === undefined ? "" : String(value.id), title: value.title ? String(value.title) : "" });
  }
  return documents;
}

/** The messages of a chat as this form has them; null if they have more than a role and a text, as calls of tools. */
function readMessages(messages) {
  const chat = { prompt: "", system: "", turns: [] };
  for (const [i, message] of messages.entries()) {
    const plain = Object.keys(message ?? {}).every((name) => name === "role" || name === "content");
    const parts = Array.isArray(message?.content) ? message.content : [{ type: "text", text: message?.content }];
    if (!plain || !parts.every((part) => part?.type === "text" && typeof part.text === "string")) return null;
    const content = parts.map(({ text }) => text).join("");
    if (message.role === "system" && i === 0) chat.system = content;
    else if (NAME[message.role]) chat.turns.push({ role: message.role, content });
    else return null;
  }
  if (chat.turns.at(-1)?.role === "user") chat.prompt = chat.turns.pop().content;
  return chat;
}

/** The messages of a list or of a request to a chat API, by the names that `jopa explain --messages` reads; else null. */
function messagesIn(value) {
  if (Array.isArray(value)) return value;
  const name = ["messages", "input", "conversations", "contents"].find((each) => Object.hasOwn(Object(value), each));
  const found = value?.[name];
  if (Array.isArray(found)) return found;
  const single = (name === "input" && typeof found === "string") || (name === "contents" && found instanceof Object);
  return single ? [found] : null;
}

/** What a pasted conversation holds, in words. */
function describeMessages(text) {
  if (!text.trim()) return "";
  try {
    const value = JSON.parse(text);
    const messages = messagesIn(value);
    const tools = Array.isArray(value?.tools) ? value.tools.length : 0;
    if (!messages) return "no list of messages";
    return count(messages.length, "message") + (tools ? `, ${count(tools, "tool")}` : "");
  } catch {
    return "no JSON yet";
  }
}

/** What the user said last in a conversation as JSON. */
export function lastSaid(text) {
  const messages = messagesIn(JSON.parse(text)); // it was explained, so it can be read
  const said = messages.filter(({ role }) => role === "user").at(-1)?.content;
  return typeof said === "string" ? said : "A conversation as JSON";
}

export class Conversation {
  /**
   * @param limits the most turns and documents.
   * @param roles of turns.
   * @param on what to call: changed(), failed(message), read(what), messages(chat), result(text).
   */
  constructor(limits, roles, on) {
    this.limits = limits;
    this.roles = roles;
    this.on = on;
    $("add-turn").addEventListener("click", () => {
      this.#addTurn({ role: $("turns").children.length % 2 ? "assistant" : "user", content: "" }).querySelector("textarea").focus();
      on.changed();
    });
    $("add-document").addEventListener("click", () => {
      const added = this.#addDocument({ text: "", id: "", title: "" });
      added.querySelector("details").open = true;
      added.querySelector("textarea").focus();
      on.changed();
    });
    $("files").addEventListener("change", async () => {
      await this.readFiles([...$("files").files]);
      $("files").value = "";
    });
    $("clear-context").addEventListener("click", () => {
      this.set({});
      on.changed();
      $("context").querySelector("summary").focus();
    });
    $("system").addEventListener("input", on.changed);
    $("messages").addEventListener("input", on.changed);
    document.addEventListener("dragover", (event) => {
      if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
      event.preventDefault();
      $("context").open = true;
      $("drop").classList.add("over");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) $("drop").classList.remove("over");
    });
    document.addEventListener("drop", (event) => this.#take(event, event.dataTransfer));
    document.addEventListener("paste", (event) => this.#take(event, event.clipboardData));
  }

  /** What is in the form, empty turns and documents left out. */
  value() {
    const turns = [...$("turns").children].map((item) => ({
      role: item.querySelector("select").value,
      content: item.querySelector("textarea").value,
    }));
    const documents = [...$("documents").children].map((item) => {
      const [id, title, text] = [...item.querySelectorAll("input, textarea")].map((field) => field.value);
      return { text, ...(id.trim() && { id: id.trim() }), ...(title.trim() && { title: title.trim() }) };
    });
    const messages = $("messages").value.trim();
    return {
      system: messages ? "" : $("system").value,
      turns: messages ? [] : turns.filter(({ content }) => content.trim()),
      messages,
      documents: documents.filter(({ text }) => text.trim()),
    };
  }

  set({ system = "", turns = [], documents = [], messages = "" }) {
    $("system").value = system;
    $("messages").value = messages;
    if (messages) $("pasted").open = true;
    $("turns").replaceChildren();
    $("documents").replaceChildren();
    turns.forEach((turn) => this.#addTurn(turn));
    documents.forEach((document) => this.#addDocument(document));
    if (system || turns.length || documents.length || messages) $("context").open = true;
    this.describe();
  }

  /** How many characters there are in all. */
  length() {
    const { system, turns, messages, documents } = this.value();
    const texts = [system, messages, ...turns.map(({ content }) => content), ...documents.flatMap((one) => Object.values(one))];
    return texts.reduce((sum, text) => sum + [...text].length, 0);
  }

  describe() {
    const { system, turns, messages, documents } = this.value();
    const pasted = describeMessages(messages);
    $("pasted-count").textContent = pasted;
    $("by-hand").hidden = Boolean(messages);
    const parts = [pasted, system.trim() && "a system message", turns.length && count(turns.length, "turn"), documents.length && count(documents.length, "document")];
    $("context-count").textContent = parts.filter(Boolean).join(", ");
    $("add-turn").disabled = $("turns").children.length >= this.limits.turns;
    $("add-document").disabled = $("documents").children.length >= this.limits.documents;
    $("clear-context").hidden = !(messages || $("turns").children.length || $("documents").children.length || system);
    [...$("turns").children].forEach((item, i) => {
      item.querySelector("select").ariaLabel = `Who speaks in turn ${i + 1}`;
      item.querySelector("textarea").ariaLabel = `Turn ${i + 1}`;
      item.querySelector("button").ariaLabel = `Remove turn ${i + 1}`;
    });
    [...$("documents").children].forEach((item, i) => {
      const [id, title, text] = [...item.querySelectorAll("input, textarea")].map((field) => field.value);
      const name = `Document ${id || i + 1}`;
      item.querySelector("summary").textContent = `${name}${title ? `: ${title}` : ""} (${count([...text].length, "character")})`;
      item.querySelector("textarea").ariaLabel = `Text of document ${i + 1}`;
      item.querySelector(":scope > button").ariaLabel = `Remove document ${i + 1}`;
    });
  }

  async readFiles(files) {
    $("context").open = true;
    const before = $("documents").children.length;
    try {
      for (const file of files) await this.#readFile(file);
      const read = $("documents").children.length - before;
      if (read > 0) this.on.read(count(read, "document"));
    } catch (error) {
      this.on.failed(error.message);
    }
    this.on.changed();
  }

  async #readFile(file) {
    if (file.size > 8 * this.limits.characters) throw new Error(`${file.name} has ${count(file.size, "byte")}, more than this page takes`);
    let text;
    try {
      text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    } catch {
      throw new Error(`${file.name} is no text in UTF-8`);
    }
    if (/\.json$/i.test(file.name)) return this.#readJson(text, file.name);
    if (!/\.(txt|md|jsonl)$/i.test(file.name)) throw new Error(`${file.name}: this page reads files .txt, .md, .jsonl and .json`);
    if (!text.trim()) throw new Error(`${file.name} is empty`);
    const found = /\.jsonl$/i.test(file.name) ? readLines(text, file.name) : [{ text: text.trimEnd(), id: file.name, title: "" }];
    if ($("documents").children.length + found.length > this.limits.documents) throw new Error(`there may be ${count(this.limits.documents, "document")} at most`);
    found.forEach((document) => this.#addDocument(document));
  }

  /** A chat, or a result that was saved. */
  #readJson(text, name) {
    let value;
    try {
      value = JSON.parse(text);
    } catch {
      throw new Error(`${name} is no JSON`);
    }
    if (!messagesIn(value)) {
      const isResult = ["schema", "kind", "comparison"].some((field) => Object.hasOwn(Object(value), field));
      if (!isResult) throw new Error(`${name} holds neither a chat nor a result of jopa`);
      return this.on.result(text);
    }
    const chat = Array.isArray(value) ? readMessages(value) : null;
    this.on.messages(chat ?? { prompt: "", messages: text.trim() });
  }

  #take(event, transfer) {
    $("drop").classList.remove("over");
    const files = [...(transfer?.files ?? [])];
    const isPicture = files.every(({ type }) => type.startsWith("image/"));
    if (isPicture && transfer?.types.includes("text/plain")) return; // cells of a table come with a picture of them
    if (!files.length) return;
    event.preventDefault();
    this.readFiles(files);
  }

  #remove(item) {
    const next = item.nextElementSibling ?? item.previousElementSibling;
    const list = item.parentElement;
    item.remove();
    this.on.changed();
    (next?.querySelector("button") ?? $(list.id === "turns" ? "add-turn" : "add-document")).focus();
  }

  #addTurn({ role, content }) {
    const select = element("select", {}, ...this.roles.map((name) => element("option", { value: name }, NAME[name])));
    select.value = role;
    const text = element("textarea", { rows: 1, value: content, spellcheck: false, dir: "auto" });
    const remove = element("button", { type: "button", className: "remove" }, "×");
    const item = element("li", {}, select, text, remove);
    remove.addEventListener("click", () => this.#remove(item));
    text.addEventListener("input", this.on.changed);
    $("turns").append(item);
    return item;
  }

  #addDocument({ text, id = "", title = "" }) {
    const field = (name, value) => element("label", {}, `${name} `, element("input", { type: "text", value }));
    const area = element("textarea", { rows: 3, value: text, spellcheck: false, dir: "auto", placeholder: "Paste a text" });
    const details = element("details", {}, element("summary"), element("div", { className: "controls" }, field("Name", id), field("Title", title)), area);
    const remove = element("button", { type: "button", className: "remove" }, "×");
    const item = element("li", {}, details, remove);
    remove.addEventListener("click", () => this.#remove(item));
    details.addEventListener("input", this.on.changed);
    $("documents").append(item);
    return item;
  }
}
