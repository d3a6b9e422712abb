// A request: sent, waited for or given up, and shown.

const MOST_CURL = 20_000; // characters
let running = null;

/** What a body says went wrong, whichever client's words it has. */
const wordsIn = body => [
  body?.message, body?.error, body?.error?.message, body?.detail, body?.detail?.[0]?.msg,
].find(each => typeof each === "string" && each);

/** An error to be read: its sentence, and when to try again. */
const wordsOf = error => sentence(error.message) + (error.wait ? ` Try again in ${error.wait} s.` : "");

/** Send JSON; returns {found, headers}, or throws an Error whose message is for the reader. */
const post = async (path, body, signal) => {
  const headers = {"content-type": "application/json"};
  const key = $("key").value.trim();
  if (/[^\x21-\x7e]/.test(key)) throw Error("the API key has characters that cannot be sent");
  if (key) headers.authorization = `Bearer ${key}`;
  let response, text;
  try {
    response = await fetch(path, {method: "POST", headers, body: JSON.stringify(body), signal});
    text = await response.text();
  } catch (error) {
    throw signal.aborted ? error : Error("the server cannot be reached, or closed the connection");
  }
  const found = parsed(text);
  if (response.ok && found !== undefined) return {found, headers: response.headers};
  const words = wordsIn(found) ?? `the server answered ${response.status} and did not say why`;
  const wait = Number(response.headers.get("retry-after"));
  if (response.status === 401) askForKey();
  throw Object.assign(Error(words), {wait: wait > 0 ? wait : 0});
};

const askForKey = () => {
  $("key-field").hidden = false;
  $("key").focus();
  $("key").select();
};

const fail = words => ($("error").textContent = words);

/** What the server is asked, and how it is told; an Error where that cannot be read. */
const gather = () => {
  const query = $("query").value.trim();
  if (!query) throw Object.assign(Error("Write a query first."), {at: "query"});
  const {documents} = readCandidates($("candidates").value);
  if (!documents.length) {
    throw Object.assign(Error("Give at least one candidate."), {at: "candidates"});
  }
  const model = chosen();
  const texts = documents.map(each => each.text);
  const body = {model: model?.name, query, documents: texts, return_documents: false};
  const [what, count] = $("layers").value.split(" ");
  if (what === "layer") body.cutoff_layer = Number(count);
  if (what === "exit") Object.assign(body, {exit: "calibrated", top_n: Number(count)});
  if (model?.kind === "reranker" && $("raw").checked) body.raw_scores = true;
  return {body, ask: {query, documents, model: model?.name, late: model?.kind === "late interaction"}};
};

const summaryOf = (results, ask, found, headers, seconds) => {
  const [queue, reading, forward] = ["queue", "tokenization", "inference"]
    .map(part => Number(headers.get(`x-${part}-time`)));
  const all = ask.documents.length;
  const part = results.length < all ? `best ${results.length} of ` : "";
  return [
    found.model, part + plural(all, "candidate"), plural(found.usage.total_tokens, "token"),
    `${Math.round(1000 * seconds)} ms, of which ${queue} waiting, ${reading} reading and ${forward} `
      + "in the model",
  ].join(" · ");
};

// They would turn around what stands behind them, the end of a command too.
const BIDI = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** The request as it would be typed; nothing where that is too long to be. */
const showCurl = body => {
  const json = JSON.stringify(body).replaceAll("'", "'\\''")
    .replace(BIDI, mark => `\\u${mark.charCodeAt(0).toString(16).padStart(4, "0")}`);
  const key = $("key").value && " \\\n  -H \"authorization: Bearer $PACKRANK_API_KEY\"";
  $("curl").hidden = json.length > MOST_CURL;
  $("curl").querySelector("pre").textContent = $("curl").hidden ? "" :
    `curl ${new URL("rerank", location)} \\\n  -H "content-type: application/json"${key} \\\n`
    + `  -d '${json}'`;
};

const rank = async () => {
  if (running) return;
  fail("");
  let asked;
  try {
    asked = gather();
  } catch (error) {
    fail(wordsOf(error));
    if (!error.at) $("count").textContent = "";
    $(error.at ?? "candidates").focus();
    return;
  }
  const {body, ask} = asked, begun = performance.now();
  const seconds = () => (performance.now() - begun) / 1000;
  running = new AbortController();
  setRunning(true);
  const clock = setInterval(() => ($("elapsed").textContent = `${seconds().toFixed(1)} s`), 100);
  try {
    const {found, headers} = await post("rerank", body, running.signal);
    $("asked").textContent = ask.query;
    $("asked").hidden = false;
    showRanking(found.results, ask);
    showCurl(body);
    $("said").textContent = summaryOf(found.results, ask, found, headers, seconds());
  } catch (error) {
    fail(running.signal.aborted ? "Cancelled." : wordsOf(error));
  } finally {
    clearInterval(clock);
    running = null;
    setRunning(false);
  }
};

const setRunning = on => {
  const left = document.activeElement === $("cancel");
  $("form").ariaBusy = String(on);
  $("running").hidden = $("cancel").hidden = !on;
  $("rank").ariaDisabled = String(on);
  $("elapsed").textContent = "";
  if (!on && left) $("rank").focus();
};

let counting = 0;
const count = () => {
  try {
    const {documents, note} = readCandidates($("candidates").value);
    $("count").textContent = documents.length ? note : "No candidates yet";
  } catch (error) {
    $("count").textContent = error.message;
  }
};

let nextExample = 0;
$("example").addEventListener("click", () => {
  const {query, candidates} = EXAMPLES[nextExample++ % EXAMPLES.length];
  $("query").value = query;
  $("candidates").value = candidates.join("\n");
  $("example").textContent = "Load another example";
  count();
});
$("candidates").addEventListener("input", () => {
  clearTimeout(counting);
  counting = setTimeout(count, 150);
});
$("form").addEventListener("submit", event => {
  event.preventDefault();
  rank();
});
$("cancel").addEventListener("click", () => running?.abort());
$("layers").addEventListener("change", () => {
  // With early exits nobody has run all layers, and there are no raw scores.
  $("raw").disabled = $("layers").value.startsWith("exit");
  if ($("raw").disabled) $("raw").checked = false;
});
document.addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    rank();
  }
});
if (/Mac|iP/.test(navigator.platform)) $("rank").querySelector("kbd").textContent = "⌘ ↵";
count();
