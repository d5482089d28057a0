// One request through Gradio's queue: join it, hear how long it takes, then read the events as they come.
// Closing the stream is how a request is cancelled: the server notices and stops the model.

function secret() {
  // Whoever knows it can listen to this request's events.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function* messages(reader) {
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}

/**
 * Ask the server for something.
 *
 * @param setup what the page knows from the start.
 * @param name the kind of work: "explain", "compare" or "remove".
 * @param request its JSON object.
 * @param on what to call: waiting(before, seconds), started(), event(event), failed(message).
 * @returns a function that cancels it; nothing is called afterwards.
 */
export function ask(setup, name, request, on) {
  let reader = null;
  let cancelled = false;
  let ended = false;
  let next = 0;

  function deliver(batch) {
    if (!batch) return;
    batch.events.forEach((event, i) => {
      if (batch.first + i < next) return; // Gradio says the last batch twice
      next = batch.first + i + 1;
      ended ||= ["result", "error", "stopped"].includes(event.kind);
      on.event(event);
    });
  }

  function hear(message) {
    if (message.msg === "estimation") on.waiting(message.rank, message.rank_eta);
    else if (message.msg === "process_starts") on.started();
    else if (message.msg === "unexpected_error") throw new Error(message.message || "the server stopped");
    else if (message.msg === "process_generating" || message.msg === "process_completed") {
      if (!message.success) throw new Error(message.output?.error || "the server could not do this");
      deliver(message.output?.data?.[0]);
    }
    return message.msg !== "close_stream";
  }

  async function talk() {
    const session = secret();
    const joined = await fetch(`${setup.queue}/queue/join`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        data: [request], fn_index: setup.functions[name], session_hash: session, simple_format: true,
      }),
    });
    if (joined.status === 503) throw new Error("too many people are waiting; try again in a minute");
    if (!joined.ok) throw new Error(`the server refused: ${(await joined.text()).slice(0, 200)}`);
    const stream = await fetch(`${setup.queue}/queue/data?session_hash=${session}`);
    reader = stream.body.getReader();
    if (cancelled) return void reader.cancel();
    for await (const message of messages(reader)) if (cancelled || !hear(message)) break;
    if (!ended && !cancelled) throw new Error("the connection broke before the answer was there");
  }

  talk().catch((error) => {
    if (!cancelled && !ended) {
      ended = true;
      reader?.cancel();
      on.failed(error instanceof TypeError ? "the server cannot be reached" : error.message);
    }
  });
  return () => {
    cancelled = true;
    reader?.cancel();
  };
}
