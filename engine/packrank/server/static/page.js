// What all parts of the page share. Whatever was typed or answered goes in as text, never as HTML.

const $ = id => document.getElementById(id);

/** An element with properties and children, of which strings become texts. */
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

/** The same of SVG, with attributes. */
const draw = (tag, attributes, ...children) => {
  const element = document.createElementNS($("pairs-past").namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

const unseen = text => make("span", {className: "unseen"}, text);
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const sentence = text => {
  const trimmed = text.trim();
  return trimmed.slice(0, 1).toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
};

/** A score: four decimals, or as many as it takes to see one; none where JSON has no spelling. */
const figure = score =>
  score === null ? "–"
  : score !== 0 && Math.abs(score) < 0.0001 ? score.toExponential(1)
  : score.toFixed(4);
