"""The style sheet of the HTML page: system fonts, muted colours, light and dark mode."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #f6f6f4; --card: #ffffff; --ink: #1c1e21; --soft: #5f646c; --line: #e3e3df;
  --bar: #4f7cac; --due: #b3261e; --due-soft: #fbe9e7; --warn: #7a4f00; --warn-soft: #fbf0d9;
  --calm-soft: #eceff3; --window: #b3261e12;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #131416; --card: #1b1d20; --ink: #e8e8e6; --soft: #a0a5ad; --line: #2f3237;
    --bar: #7ea6d3; --due: #ff9a8f; --due-soft: #3b1f1d; --warn: #f0c36d; --warn-soft: #36290f;
    --calm-soft: #292c31; --window: #ff9a8f14;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 72rem; margin: 0 auto; padding: clamp(1rem, 4vw, 3rem) clamp(.75rem, 4vw, 2rem); }
header { margin-bottom: 1.5rem; }
h1 { font-size: 1.75rem; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; line-height: 1.3; margin: 0; overflow-wrap: anywhere; }
header p, .where { color: var(--soft); margin: 0; overflow-wrap: anywhere; }
time { white-space: nowrap; }
section { margin-top: 2.25rem; }
.card, .scroll, .tiles li, .failure {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
}
.tiles {
  list-style: none; margin: 0 0 1rem; padding: 0; display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fit, minmax(6.4rem, 1fr));
}
.tiles li { padding: .6rem .8rem; color: var(--soft); line-height: 1.3; font-size: .85rem; }
.tiles b { display: block; font-size: 1.45rem; font-weight: 600; }
.tiles .due b { color: var(--due); }
.tiles .warn b { color: var(--warn); }
.tiles .due { border-color: var(--due); }
.card { margin: 0; padding: 1rem clamp(.75rem, 2.5vw, 1.5rem); }
.card h2 { margin-bottom: .75rem; }
.timeline { display: block; overflow: visible; }
.timeline text { fill: var(--soft); font-size: 12px; }
.timeline .lane { fill: var(--ink); font-weight: 600; font-size: 13px; }
.timeline .counts { fill: var(--soft); font-weight: 400; font-size: 12px; }
.timeline .axis, .timeline .base { stroke: var(--line); }
.timeline .grid { stroke: var(--line); stroke-dasharray: 2 4; }
.timeline .window { fill: var(--window); }
.timeline .bar { fill: var(--bar); }
.timeline .bar.due { fill: url(#hatch); stroke: var(--due); stroke-width: 1; }
.due-ground { fill: var(--due-soft); }
.due-line { fill: var(--due); }
.timeline .sign { fill: var(--due); font-weight: 700; font-size: 12px; }
.timeline .later { fill: var(--calm-soft); }
.timeline .later.none { fill: none; stroke: var(--line); }
.timeline .number { fill: var(--ink); font-weight: 600; font-size: 12px; }
figcaption {
  display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin-top: .75rem; color: var(--soft);
  font-size: .85rem;
}
.swatch {
  display: inline-block; width: .8em; height: .9em; margin-right: .45em; border-radius: 2px;
  background: var(--bar); vertical-align: -1px; font: 700 .8em/1 system-ui, sans-serif;
}
.swatch.hatched {
  width: auto; min-width: .9em; padding: 1px 3px; color: var(--due); text-align: center;
  border: 1px solid var(--due); background: var(--due-soft); height: auto; vertical-align: 0;
}
.swatch.shaded { background: var(--due-soft); border: 1px solid var(--line); }
.scroll { margin-top: .75rem; overflow: auto; max-height: 80vh; }
.scroll:focus-visible { outline: 2px solid var(--bar); outline-offset: 2px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .9rem; }
th, td {
  text-align: left; padding: .5rem .8rem; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line);
}
tbody tr:last-child > * { border-bottom: 0; }
thead th {
  position: sticky; top: 0; z-index: 1; background: var(--card); color: var(--soft);
  font-weight: 500; font-size: .8rem;
}
tbody th { font-weight: 600; white-space: normal; min-width: 10rem; overflow-wrap: anywhere; }
tbody th small {
  display: block; color: var(--soft); font-weight: 400; font-size: .7rem; white-space: nowrap;
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace;
}
td:last-child { white-space: normal; min-width: 11rem; }
th.figure, td.figure { text-align: right; }
td { font-variant-numeric: tabular-nums; }
tr.due > th { box-shadow: inset 3px 0 0 var(--due); }
.sign { color: var(--due); }
.note {
  display: inline-block; padding: .05rem .5rem; border-radius: 1rem; white-space: nowrap;
  background: var(--warn-soft); color: var(--warn); font-size: .78rem;
}
.note.expiring, .note.rotation_due { background: var(--due-soft); color: var(--due); }
.note.unmanaged, .note.delivery_unknown { background: var(--calm-soft); color: var(--soft); }
.failure { margin: .75rem 0 0; padding: .7rem .9rem; border-left: 3px solid var(--due); }
.failure { overflow-wrap: anywhere; }
.failure b { color: var(--due); }
.meanings dl { margin: .75rem 0 0; display: grid; gap: .4rem; }
.meanings dl div { display: flex; flex-wrap: wrap; gap: .1rem .75rem; align-items: baseline; }
.meanings dt { min-width: 9rem; }
.meanings dd { margin: 0; color: var(--soft); }
@media (max-width: 40rem) {
  .tiles { grid-template-columns: repeat(3, 1fr); }
  .tiles li { padding: .5rem .6rem; }
  .timeline .minor { display: none; }
  th, td { padding: .5rem .55rem; }
  tbody th { min-width: 9.2rem; }
  tbody th small { white-space: normal; font-size: .62rem; }
  .timeline .bar.due { stroke-width: .5; }
}
@media print {
  .scroll { max-height: none; overflow: visible; }
  section { break-inside: auto; }
}
"""
