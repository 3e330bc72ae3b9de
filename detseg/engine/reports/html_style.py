"""The looks of a report: light or dark as the reader prefers, narrow or wide, and on paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --faint: #56606b; --rule: #d8dde3; --tint: #f4f6f8;
  --accent: #0b5fa5; --right: #0a7d4f; --wrong: #c2185b; --true: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e6e9ed; --faint: #a3adb8; --rule: #343b44;
  --tint: #1e2329; --accent: #6cb2f0; --right: #3ddc97; --wrong: #ff6f9f; --true: #ffb703; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.75rem; padding-bottom: 0.25rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.25rem 0 0.5rem; }
p { max-width: 52rem; overflow-wrap: anywhere; }
a { color: var(--accent); }
nav a { display: inline-block; margin-right: 1rem; padding: 0.2rem 0; }
section { scroll-margin-top: 5rem; }
[hidden] { display: none !important; }
.faint, figcaption { color: var(--faint); }
.numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.5rem), 1fr)); gap: 0.75rem;
  padding: 0; list-style: none; }
.numbers li { padding: 0.6rem 0.8rem; border: 1px solid var(--rule); border-radius: 6px; background: var(--tint); }
.numbers li { overflow-wrap: anywhere; }
.numbers .primary { border: 2px solid var(--accent); }
.numbers strong { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.numbers small { display: block; color: var(--faint); line-height: 1.3; }
.wide { overflow-x: auto; }
.low { max-height: 24rem; overflow-y: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; }
caption span { display: inline-block; max-width: min(52rem, calc(100vw - 2rem)); }
.words th, .words td { text-align: left; }
th, td { padding: 0.25rem 0.7rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tbody th { max-width: 22rem; overflow: hidden; text-overflow: ellipsis; }
thead th { background: var(--tint); }
thead th button { all: unset; cursor: pointer; }
thead th button:focus-visible { outline: 2px solid var(--accent); }
thead th[aria-sort] { color: var(--accent); }
thead th[aria-sort="ascending"] button::after { content: " \\25b4"; }
thead th[aria-sort="descending"] button::after { content: " \\25be"; }
.total th, .total td { font-weight: bold; }
.settings td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.settings th { text-align: left; font-weight: normal; color: var(--faint); vertical-align: top; white-space: normal; }
.bar { display: flex; flex-wrap: wrap; gap: 0.5rem 1.25rem; align-items: center; margin: 0.5rem 0; }
main > .bar { position: sticky; top: 0; z-index: 2; margin: 1rem 0 0; padding: 0.5rem 0.75rem; background: var(--tint);
  border: 1px solid var(--rule); border-radius: 6px; }
select, button { font: inherit; color: var(--ink); background: var(--paper); border: 1px solid var(--faint);
  border-radius: 4px; padding: 0.15rem 0.5rem; max-width: 16rem; }
input[type="range"] { width: 12rem; max-width: 50vw; vertical-align: middle; accent-color: var(--accent); }
figure { margin: 0 0 1.5rem; break-inside: avoid; min-width: 0; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: 0.3rem; overflow-wrap: anywhere; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); gap: 1rem 1.5rem; }
.gallery.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.gallery button { all: unset; display: block; width: 100%; cursor: zoom-in; }
.gallery button:focus-visible { outline: 3px solid var(--accent); }
.view { display: flex; gap: 2px; }
.layer { position: relative; display: block; flex: 1; min-width: 0; overflow: hidden; }
.layer img { display: block; width: 100%; height: auto; }
.layer svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.layer rect { fill: none; stroke-width: 2px; vector-effect: non-scaling-stroke; }
.layer rect.right { stroke: #10c878; } .layer rect.wrong { stroke: #ff3d7f; }
.layer rect.true, .layer rect.crowd { stroke: #ffc400; stroke-dasharray: 6 4; }
.layer rect.crowd { stroke: #b0b0b0; }
.tag { position: absolute; padding: 0 0.25rem; font-size: 12px; line-height: 1.4; white-space: nowrap; color: #000;
  background: #ffc400; }
.tag.right { background: #10c878; transform: translateY(-100%); }
.tag.wrong { background: #ff7fab; transform: translateY(-100%); }
.tag.crowd { background: #b0b0b0; }
.tag.inside { transform: none; }
#large-view .view { justify-content: center; }
.key { display: inline-block; width: 1rem; height: 0.6rem; margin-left: 0.5rem; background: #10c878; }
.key.wrong { background: #ff3d7f; } .key.true { background: #ffc400; }
.key.precision { background: var(--accent); } .key.recall { background: var(--true); }
.key.f1 { background: var(--right); }
#curves { display: block; width: 100%; max-width: 44rem; height: auto; color: var(--ink); }
#curves text { fill: var(--faint); font-size: 12px; }
#curves path { fill: none; stroke-width: 2px; }
#curves .precision { stroke: var(--accent); } #curves .recall { stroke: var(--true); }
#curves .f1 { stroke: var(--right); }
#curves .grid { stroke: var(--rule); } #curves .now { stroke: var(--ink); stroke-dasharray: 3 3; }
dialog { width: min(96vw, 80rem); max-height: 96vh; padding: 0.75rem; overflow: auto; color: var(--ink);
  background: var(--paper); border: 1px solid var(--rule); border-radius: 6px; }
dialog::backdrop { background: rgb(0 0 0 / 70%); }
dialog strong { overflow-wrap: anywhere; }
.buttons { margin-left: auto; display: flex; gap: 0.4rem; }
.charts img { max-height: 44rem; width: auto; background: #fff; }
@media (prefers-color-scheme: dark) { .charts img { filter: invert(0.92) hue-rotate(180deg); } }
@media (max-width: 40rem) { body { padding: 0.75rem; } .buttons { margin-left: 0; } main > .bar { position: static; } }
@media print { body { max-width: none; padding: 0; font-size: 11px; background: #fff; color: #000; }
  nav, main > .bar, #more { display: none; } .wide { overflow: visible; } h2 { break-after: avoid; }
  .gallery { grid-template-columns: 1fr 1fr; } tr { break-inside: avoid; } }
"""
