// What the engine does now, asked about once a second while the page is seen.

const KEPT = 60;
const compact = new Intl.NumberFormat("en", {notation: "compact", maximumSignificantDigits: 3});
const percent = share => `${(100 * share).toFixed(share < 0.0995 && share > 0 ? 1 : 0)} %`;
const past = new Map(); // name -> its last totals, and rates since
let models = [];
let looking = 0;

const chosen = () => models.find(model => model.name === $("model").value);

const say = (state, text = state) => {
  $("state").dataset.state = state;
  $("figures").classList.toggle("stale", state === "unreachable");
  if ($("state").textContent !== text) $("state").textContent = text;
};

/** Remember what a model did since it was last asked for. */
const remember = (model, now) => {
  const known = past.get(model.name);
  // Totals that fell are those of a server that was started again.
  if (!known || model.tokens < known.model.tokens || model.requests < known.model.requests) {
    past.set(model.name, {model, now, rates: []});
    return;
  }
  const seconds = (now - known.now) / 1000;
  const rate = name => (model[name] - known.model[name]) / seconds;
  known.rates.push({pairs: rate("pairs"), tokens: rate("tokens"), busy: rate("forward_s")});
  known.rates.splice(0, known.rates.length - KEPT);
  Object.assign(known, {model, now});
};

const sparkline = (svg, values) => {
  const most = Math.max(...values, 1e-9);
  const points = values.map((value, place) =>
    `${place + KEPT - values.length},${(19 - 18 * (value / most)).toFixed(1)}`);
  if (points.length < 2) return svg.replaceChildren();
  const area = [`${KEPT - values.length},20`, ...points, `${KEPT - 1},20`];
  svg.replaceChildren(
    draw("polygon", {points: area.join(" ")}), draw("polyline", {points: points.join(" ")}));
};

const showFigures = () => {
  const model = chosen();
  if (!model) return;
  const rates = past.get(model.name)?.rates ?? [];
  const last = rates.at(-1);
  $("pairs").textContent = last ? compact.format(last.pairs) : "–";
  $("tokens").textContent = last ? compact.format(last.tokens) : "–";
  $("busy").textContent = last ? percent(Math.min(last.busy, 1)) : "–";
  sparkline($("pairs-past"), rates.map(rate => rate.pairs));
  sparkline($("tokens-past"), rates.map(rate => rate.tokens));
  $("queue").textContent = compact.format(model.queue_requests);
  const share = Math.min(1, model.queue_tokens / Math.max(1, model.max_queue_tokens));
  $("queue-share").style.setProperty("--to", share);
  $("fill").textContent = percent(model.fill);
  const asked = model.cache_hits + model.cache_misses;
  $("hits").textContent = asked ? percent(model.cache_hits / asked) : "–";
  $("answered").textContent = compact.format(model.requests);
  $("failed").textContent = compact.format(model.failed);
  $("failed-figure").hidden = !model.failed;
};

/** What can be chosen for the model: layers, calibrated exits, raw scores. */
const showChoices = () => {
  const model = chosen();
  $("about").textContent = model
    ? `${model.kind}, ${model.dtype} on ${model.device}, up to ${model.max_length} tokens` : "";
  const layers = model?.layers ?? [];
  const options = [
    ["", `all ${layers.at(-1)}`],
    ...layers.slice(0, -1).reverse().map(layer => [`layer ${layer}`, String(layer)]),
    ...(model?.calibrated ?? []).map(count => [`exit ${count}`, `early exits, best ${count}`]),
  ];
  $("layers").replaceChildren(...options.map(([value, text]) => make("option", {value}, text)));
  $("layers-label").hidden = layers.length < 2;
  $("raw-label").hidden = model?.kind !== "reranker";
  $("raw").disabled = false;
};

const showModels = served => {
  const names = list => JSON.stringify(list.map(model => model.name));
  const same = names(served) === names(models);
  models = served;
  if (!same) {
    const before = $("model").value;
    $("model").replaceChildren(...models.map(({name}) => make("option", {value: name}, name)));
    if (models.some(model => model.name === before)) $("model").value = before;
    showChoices();
  }
};

const look = async () => {
  const mine = ++looking;
  try {
    const response = await fetch("live", {cache: "no-store", signal: AbortSignal.timeout(5000)});
    const live = await response.json();
    if (mine !== looking) return;
    const now = performance.now();
    $("version").textContent = live.version;
    say(live.state);
    if (live.models.length) showModels(live.models);
    for (const model of live.models) remember(model, now);
    showFigures();
  } catch {
    if (mine !== looking) return;
    say("unreachable", "cannot be reached");
  }
  if (!document.hidden) setTimeout(() => mine === looking && look(), 1000);
};

document.addEventListener("visibilitychange", () => document.hidden ? ++looking : look());
$("model").addEventListener("change", () => {
  showChoices();
  showFigures();
});
look();
