// The ranking: a table in the model's order, with slopes from where each candidate was given.

const MOST_ROWS = 200;
const MOST_SLOPES = 60;
let resized = null;

const movement = (index, place) => {
  const far = Math.abs(index - place);
  if (!far) return make("span", {className: "stayed"}, "=", unseen(" as given"));
  const up = index > place;
  return make(
    "span", {className: up ? "up" : "down", title: `given as ${index + 1}`},
    make("span", {ariaHidden: "true"}, up ? "▲" : "▼"), String(far),
    unseen(` ${up ? "up" : "down"}, given as ${index + 1}`),
  );
};

/** What bars are drawn on: 0 to 1 where all scores lie there, else 0 to the farthest either way. */
const scaleOf = results => {
  const scores = results.map(each => each.relevance_score).filter(score => score !== null);
  const low = Math.min(0, ...scores), high = Math.max(0, ...scores);
  return low === 0 && high <= 1 ? {low: 0, high: 1} : {low, high: high > low ? high : low + 1};
};

const scoreCell = (score, {low, high}) => {
  const part = value => (value - low) / (high - low);
  const side = score < 0 ? "below" : "above";
  const bar = make("span", {className: "bar", ariaHidden: "true"}, make("span", {className: side}));
  const ends = score === null ? [0, 0] : [Math.min(score, 0), Math.max(score, 0)].map(part);
  bar.firstChild.style.setProperty("--from", ends[0]);
  bar.firstChild.style.setProperty("--to", ends[1]);
  return make("td", {className: "score"}, make("span", {className: "number"}, figure(score)), bar);
};

const candidateCell = (document, explained) => {
  const text = make("div", {className: "text clamped", dir: "auto"}, document.text);
  const more = make("button", {type: "button", className: "quiet more", hidden: true}, "More");
  more.ariaExpanded = "false";
  more.addEventListener("click", () => {
    const open = !text.classList.toggle("clamped");
    more.ariaExpanded = String(open);
    more.textContent = open ? "Less" : "More";
  });
  const name = document.name ? [make("bdi", {className: "name"}, document.name)] : [];
  const actions = make("div", {className: "actions"}, more, ...(explained ? [explained] : []));
  const words = make("div", {className: "words"}, ...name, text);
  return make("td", {}, make("div", {className: "candidate"}, words, actions));
};

const rankingRow = (result, place, scale, ask) => {
  const document = ask.documents[result.index];
  const button = ask.late && make("button", {type: "button", className: "quiet"}, "Tokens");
  const row = make(
    "tr", {},
    make("th", {scope: "row"}, String(place + 1)),
    make("td", {className: "moved"}, movement(result.index, place)),
    scoreCell(result.relevance_score, scale),
    candidateCell(document, button),
  );
  if (button) offerHeat(button, row, ask, document.text);
  return row;
};

/** Draw from the given places, on the left, to the rows as they stand. */
const drawSlopes = (svg, rows, results) => {
  const {top, width} = svg.getBoundingClientRect();
  const heights = rows.map(row => {
    const box = row.cells[1].firstChild.getBoundingClientRect();
    return box.top + box.height / 2 - top;
  });
  const left = 42, right = width - 4, middle = (left + right) / 2;
  const slopes = results.map(({index}, place) => {
    const kind = index > place ? "up" : index < place ? "down" : "stayed";
    const [from, to] = [heights[index], heights[place]];
    const d = `M${left},${from} C${middle},${from} ${middle},${to} ${right},${to}`;
    return draw("path", {d, class: kind});
  });
  const label = (y, text) =>
    draw("text", {x: left - 7, y, "text-anchor": "end", "dominant-baseline": "central"}, text);
  svg.replaceChildren(...slopes, ...heights.map((y, place) => label(y, place + 1)), label(9, "Given"));
};

/** Show the results of a request: ask has documents, query, model, and late, if it is explained. */
const showRanking = (results, ask) => {
  resized?.disconnect();
  const scale = scaleOf(results);
  const head = ["Rank", "Moved", "Score", "Candidate"].map(name => make("th", {scope: "col"}, name));
  const body = make("tbody");
  const table = make(
    "table", {},
    make("caption", {className: "unseen"}, "Candidates in the model's order"),
    make("thead", {}, make("tr", {}, ...head)),
    body,
  );
  const rows = [];
  const add = until => {
    while (rows.length < until) {
      rows.push(rankingRow(results[rows.length], rows.length, scale, ask));
      body.append(rows.at(-1));
    }
  };
  add(Math.min(results.length, MOST_ROWS));
  const place = make("div", {className: "ranked"}, table);
  const svg = draw("svg", {class: "slopes", "aria-hidden": "true"});
  const all = results.length === ask.documents.length;
  const sloping = all && results.length > 1 && results.length <= MOST_SLOPES;
  if (sloping) {
    place.classList.add("sloping");
    place.append(svg);
    const point = event => {
      const found = rows.indexOf(event.target.closest("tbody > tr"));
      const off = event.type === "mouseleave" || event.type === "focusout";
      [...svg.children].forEach((one, at) => one.classList.toggle("on", !off && at === found));
      svg.classList.toggle("pointed", !off && found >= 0);
    };
    for (const name of ["mouseover", "mouseleave", "focusin", "focusout"]) {
      body.addEventListener(name, point);
    }
  }
  if (rows.length < results.length) {
    const count = results.length.toLocaleString("en");
    const rest = make("button", {type: "button"}, `Show all ${count}`);
    rest.addEventListener("click", () => {
      add(results.length);
      rest.remove();
    });
    place.append(rest);
  }
  $("ranking").replaceChildren(place);
  resized = new ResizeObserver(() => {
    for (const row of rows) {
      const cell = row.querySelector(".candidate"), text = cell.querySelector(".text");
      const cut = text.scrollHeight > text.clientHeight + 1;
      cell.querySelector(".more").hidden = text.classList.contains("clamped") && !cut;
    }
    if (sloping) drawSlopes(svg, rows, results);
  });
  resized.observe(table);
};
