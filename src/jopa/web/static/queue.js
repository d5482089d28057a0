// One request to the server: submit it, then read its events as they come.
// Closing the stream of events is how a request is cancelled: the server notices and stops the model.

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

/** The response, if it is no refusal. The server's own lines are plain text; a proxy's page of HTML says nothing here. */
export async function checked(response) {
  if (response.ok) return response;
  const isLine = response.headers.get("Content-Type")?.startsWith("text/plain");
  throw new Error((isLine && (await response.text()).trim().slice(0, 400)) || `the server says ${response.status}`);
}

/**
 * Send a request to the server.
 *
 * @param request its JSON object.
 * @param on what to call: waiting(before, seconds), started(), event(event), failed(message).
 * @returns a function that cancels it; nothing is called afterwards.
 */
export function submit(request, on) {
  const abort = new AbortController();
  const { signal } = abort;
  let ended = false;

  function deliver(event) {
    if (event.kind === "waiting") return on.waiting(event.before, event.seconds);
    if (event.kind === "started") return on.started();
    ended = ["result", "error", "stopped"].includes(event.kind);
    on.event(event);
  }

  async function run() {
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify(request);
    const { id } = await (await checked(await fetch("jobs", { method: "POST", headers, body, signal }))).json();
    const stream = await checked(await fetch(`jobs/${id}/events`, { signal }));
    for await (const event of messages(stream.body.getReader())) {
      if (signal.aborted) return;
      deliver(event);
    }
    if (!ended) throw new Error("the connection broke before the answer was there");
  }

  run().catch((error) => {
    if (signal.aborted) return;
    abort.abort();
    if (ended) on.failed(`the page could not show what was found (${error.message})`);
    else on.failed(error instanceof TypeError ? "the server cannot be reached" : error.message);
  });
  return () => abort.abort();
}
