// The visitor's last runs, kept in this browser and nowhere else: what was asked, and the result as JSON.
// Whatever stands in the browser's storage may have been written by somebody else, so its shape is checked; results are
// drawn by the server, from the JSON, and never from stored HTML.

const KEY = "jopa.runs";
const MAX_RUNS = 12;
/** Of all runs together, as text; browsers keep about five million characters. */
const MAX_CHARACTERS = 3_000_000;

function isRun(run) {
  return (
    typeof run?.title === "string" &&
    typeof run.kind === "string" &&
    Number.isFinite(run.at) &&
    typeof run.form === "object" && run.form !== null && !Array.isArray(run.form) &&
    (run.json === null || typeof run.json === "string")
  );
}

/** The runs, the last first; what cannot be read is left out. */
export function runs() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY));
    return Array.isArray(found) ? found.filter(isRun).slice(0, MAX_RUNS) : [];
  } catch {
    return []; // no storage here, or no JSON in it
  }
}

function write(kept) {
  try {
    if (kept.length) localStorage.setItem(KEY, JSON.stringify(kept));
    else localStorage.removeItem(KEY);
    return true;
  } catch {
    return false; // no storage here, or it is full
  }
}

/** Put a run first. A result that is too long is left out of it; then the oldest runs go, until all fit. */
export function keepRun(run) {
  const first = JSON.stringify(run).length > MAX_CHARACTERS ? { ...run, json: null } : run;
  let kept = [first, ...runs()].slice(0, MAX_RUNS);
  while (kept.length && (JSON.stringify(kept).length > MAX_CHARACTERS || !write(kept))) kept = kept.slice(0, -1);
}

export function forgetRun(index) {
  write(runs().filter((_, i) => i !== index));
}

export function forgetAll() {
  write([]);
}
