"""How the page looks, and the script that draws its figures."""

HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>packrank bench</title>
<style>
:root {
  --ink: #1d2529; --faded: #67737a; --line: #e3e8ea; --paper: #f7f9f9; --card: #fff;
  --primary: #1a7f5a; --doubt: #b3541e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e3e8ea; --faded: #9aa5ab; --line: #2b3439; --paper: #121719; --card: #1a2023;
    --primary: #3fb58a; --doubt: #e8935c;
  }
}
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 0; }
main { max-width: 72em; margin: 0 auto; padding: 2.5em 1.25em 4em; }
h1 { font-size: 1.75em; line-height: 1.2; margin: 0 0 0.4em; letter-spacing: -0.01em; }
h2 { font-size: 1.25em; line-height: 1.3; margin: 0 0 0.3em; }
h3 { font-size: 0.95em; margin: 0 0 0.6em; font-weight: 600; overflow-wrap: anywhere; }
p { margin: 0 0 0.8em; max-width: 48em; overflow-wrap: anywhere; }
header p, section > p { color: var(--faded); }
section { margin-top: 3em; }
.verdict { border-left: 3px solid var(--primary); padding-left: 0.8em; color: var(--ink); }
.doubtful { border-color: var(--doubt); font-weight: 600; }
.cards { list-style: none; padding: 0; margin: 1.5em 0 0; display: grid; gap: 0.9em;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17em), 1fr)); }
.cards li, figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1em 1.1em; min-width: 0; }
.cards span { display: block; overflow-wrap: anywhere; }
.cards .name, .cards .rest { font-size: 0.875em; color: var(--faded); }
.cards .figure { font-size: 1.5em; font-weight: 650; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
.share { height: 6px; border-radius: 3px; background: var(--line); margin: 0.4em 0 0.5em;
  overflow: hidden; }
.share i { display: block; height: 100%; background: var(--primary); }
.plots { display: grid; gap: 0.9em; margin-top: 1em;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21em), 1fr)); }
figure { margin: 0; }
.wide { grid-column: 1 / -1; }
.plot { width: 100%; }
.scroll { overflow-x: auto; margin-bottom: 1.8em; }
table { border-collapse: collapse; font-size: 0.875em; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3em 1.1em 0.3em 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { color: var(--faded); font-weight: 500; }
.of { text-align: left; min-width: 7em; max-width: 22em; white-space: normal;
  overflow-wrap: anywhere; }
.bar { width: 14em; min-width: 8em; padding-right: 0; }
.bar div { display: flex; height: 0.8em; border-radius: 2px; overflow: hidden; }
.key { font-size: 0.875em; color: var(--faded); }
.key i { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 2px;
  margin: 0 0.35em 0 0.9em; }
.key i:first-child { margin-left: 0; }
.note { font-size: 0.875em; color: var(--faded); margin: 0.4em 0 0; }
li { overflow-wrap: anywhere; }
@media (max-width: 40em) { main { padding: 1.5em 0.9em 3em; } figure { padding: 0.8em 0.6em; } }
@media print { figure, .cards li { break-inside: avoid; } }
</style>
<noscript><style>.plots { display: none; }</style></noscript>
</head>
<body>
<main>
"""

# Colours of a figure are those on white; the table says which takes its place on black.
SCRIPT = """\
const night = matchMedia("(prefers-color-scheme: dark)");
const themed = value =>
  Array.isArray(value) ? value.map(themed)
  : value && typeof value === "object"
    ? Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, themed(inner)]))
  : night.matches && Object.hasOwn(DARK, value) ? DARK[value] : value;
const figures = [...document.querySelectorAll("script.figure")].map(
  script => JSON.parse(script.textContent));
const draw = () => document.querySelectorAll(".plot").forEach((place, number) => {
  const {data, layout} = themed(figures[number]);
  Plotly.react(place, data, layout, {displayModeBar: false, responsive: true});
});
draw();
night.addEventListener("change", draw);
"""
