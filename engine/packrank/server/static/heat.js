// Of late interaction: what each token of a candidate adds to its score, and what found it.

/** Whether a word of the text goes on from one token to the next, or even a character. */
const goesOn = (points, before, after) => {
  if (before.stop === null || after.start === null) return false;
  if (after.start !== before.stop) return after.start < before.stop;
  const around = points.slice(Math.max(after.start - 1, 0), after.start + 1);
  return around.length === 2
    && around.every(point => /[\p{L}\p{M}\p{N}]/u.test(point) && !/\p{Script=Han}/u.test(point));
};

/** A text with its tokens where they stand, and beside them those that the model adds. */
const written = (text, tokens, mark) => {
  const points = [...text]; // offsets count code points
  const last = tokens.reduce((most, token) => Math.max(most, token.stop ?? 0), 0);
  const nodes = [];
  let done = 0, word = null;
  const unread = stop => {
    const rest = points.slice(done, stop).join("");
    nodes.push(rest.trim() ? make("span", {className: "unscored"}, rest) : rest);
    done = Math.max(stop, done);
  };
  tokens.forEach((token, place) => {
    if (!place || !goesOn(points, tokens[place - 1], token)) {
      if (token.start !== null) unread(token.start);
      else if (done === last && last) unread(points.length);
      word = make("span", {className: "word"});
      nodes.push(word);
    }
    let said = token.text;
    if (token.start !== null) {
      // Several tokens may stand for parts of one character.
      said = points.slice(Math.max(token.start, done), token.stop).join("") || "·";
      done = Math.max(token.stop, done);
    }
    const made = mark(place, said);
    made.classList.add("token");
    made.classList.toggle("added", token.kind !== "text");
    made.classList.toggle("unscored", !token.scored);
    word.append(made);
    word.classList.toggle("pieces", word.children.length > 1);
  });
  unread(points.length);
  return nodes;
};

/** Buttons of which one is a tab stop, and arrows go to the others. */
const roving = (row, buttons) => {
  buttons.forEach((button, place) => (button.tabIndex = place ? -1 : 0));
  row.addEventListener("keydown", event => {
    const here = buttons.indexOf(document.activeElement);
    const to = {ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: buttons.length - 1}[event.key];
    if (here < 0 || buttons[to] === undefined) return;
    event.preventDefault();
    buttons[here].tabIndex = -1;
    buttons[to].tabIndex = 0;
    buttons[to].focus();
  });
};

const summary = found => {
  const how = found.mean ? "mean" : "sum";
  const cut = [["query", found.query_cut], ["document", found.document_cut]]
    .filter(([, count]) => count)
    .map(([what, count]) => `; ${plural(count, "token")} of the ${what} did not fit`);
  return `${figure(found.score)}, the ${how} of ${found.matches.length} matches${cut.join("")}.`;
};

const matchesTable = (found, name) => {
  const rows = found.matches.map(match => make(
    "tr", {},
    make("th", {scope: "row"}, make("bdi", {}, name(found.query_tokens[match.query_token]))),
    make("td", {className: "number"}, figure(match.score)),
    make("td", {}, make("bdi", {}, name(found.document_tokens[match.document_token]))),
  ));
  const head = ["Query token", "Adds", "Document token"]
    .map(each => make("th", {scope: "col"}, each));
  return make(
    "details", {},
    make("summary", {}, "As a table"),
    make("table", {className: "matches"}, make("thead", {}, make("tr", {}, ...head)),
      make("tbody", {}, ...rows)),
  );
};

/** An explanation: both texts in shades of what their tokens add, and the matches between them. */
const heat = found => {
  const name = token => token?.text ?? "nothing";
  const byQuery = new Map(found.matches.map(match => [match.query_token, match]));
  const shares = new Map();
  for (const {document_token: place, score} of found.matches) {
    if (place !== null) shares.set(place, (shares.get(place) ?? 0) + score);
  }
  const most = Math.max(0, ...shares.values());
  const best = found.matches.reduce((high, match) => Math.max(high, match.score ?? 0), 0);
  const shade = (element, value, top) =>
    element.style.setProperty("--share", top > 0 && value > 0 ? (value / top).toFixed(3) : 0);
  const asking = new Map(), answering = new Map();
  const rest = "Point at a token of the query, or step through them by the arrow keys, to see "
    + "what it found. The stronger the shade, the more it adds.";
  const line = make("p", {className: "match note"}, rest);

  const query = written(found.query, found.query_tokens, (place, said) => {
    const match = byQuery.get(place);
    if (!match) return make("span", {}, said);
    const button = make("button", {type: "button"}, said);
    shade(button, match.score, best);
    const there = found.document_tokens[match.document_token];
    button.ariaLabel = `${said} found ${name(there)}, adds ${figure(match.score)}`;
    asking.set(place, button);
    return button;
  });
  const answer = written(found.document, found.document_tokens, (place, said) => {
    const span = make("span", {}, said);
    if (shares.has(place)) {
      shade(span, shares.get(place), most);
      span.title = figure(shares.get(place));
    }
    answering.set(place, span);
    return span;
  });

  const point = matches => {
    for (const each of [...asking.values(), ...answering.values()]) each.classList.remove("on");
    for (const {query_token: from, document_token: to} of matches) {
      asking.get(from)?.classList.add("on");
      answering.get(to)?.classList.add("on");
    }
    const said = matches.map(match => [
      make("bdi", {}, name(found.query_tokens[match.query_token])), " → ",
      make("bdi", {}, name(found.document_tokens[match.document_token])),
      ` ${figure(match.score)}   `,
    ]).flat();
    line.replaceChildren(...(said.length ? said : [rest]));
  };
  const pointing = (element, matches) => {
    element.addEventListener("mouseenter", () => point(matches));
    element.addEventListener("focus", () => point(matches));
    element.addEventListener("mouseleave", () => point([]));
    element.addEventListener("blur", () => point([]));
  };
  for (const [place, button] of asking) pointing(button, [byQuery.get(place)]);
  for (const [place, span] of answering) {
    const matches = found.matches.filter(match => match.document_token === place);
    if (matches.length) pointing(span, matches);
  }
  const row = make("div", {className: "tokens", role: "toolbar", dir: "auto"}, ...query);
  row.ariaLabel = "Tokens of the query";
  roving(row, [...asking.values()]);
  const text = make("div", {className: "tokens", dir: "auto"}, ...answer);
  return [row, line, text, matchesTable(found, name)];
};

let panels = 0;

/** Let a button open and close the heat of a document under its row. */
const offerHeat = (button, row, ask, text) => {
  let under = null, stop = null;
  button.ariaExpanded = "false";
  button.addEventListener("click", async () => {
    if (under) {
      stop.abort();
      under.remove();
      under = null;
      button.ariaExpanded = "false";
      return;
    }
    const said = make("p", {className: "note", ariaLive: "polite"});
    const panel = make("td", {colSpan: 4, id: `heat-${++panels}`}, said);
    const opened = under = make("tr", {className: "heat"}, panel);
    row.after(under);
    button.ariaExpanded = "true";
    button.setAttribute("aria-controls", panel.id);
    stop = new AbortController();
    try {
      const given = {query: ask.query, document: text, model: ask.model};
      const {found} = await post("explain", given, stop.signal);
      said.textContent = summary(found);
      panel.append(...heat(found));
    } catch (error) {
      if (opened !== under) return;
      said.className = "error";
      said.textContent = wordsOf(error);
    }
  });
};
