"""The looks of a report: light or dark as the reader prefers, and on paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --faint: #5b6470; --rule: #d8dde3; --tint: #f4f6f8;
  --accent: #0b5fa5; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e6e9ed; --faint: #9aa4b0; --rule: #343b44;
  --tint: #1e2329; --accent: #6cb2f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.75rem; padding-bottom: 0.25rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.25rem 0 0.5rem; }
p { max-width: 52rem; }
nav a { margin-right: 1rem; color: var(--accent); }
.faint, figcaption { color: var(--faint); }
.numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 0.75rem; padding: 0;
  list-style: none; }
.numbers li { padding: 0.6rem 0.8rem; border: 1px solid var(--rule); border-radius: 6px; background: var(--tint); }
.numbers .primary { border: 2px solid var(--accent); }
.numbers strong { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.numbers small { display: block; color: var(--faint); line-height: 1.3; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.7rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { position: sticky; top: 0; background: var(--tint); }
.settings td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.settings th { text-align: left; font-weight: normal; color: var(--faint); vertical-align: top; }
figure { margin: 0 0 1.5rem; break-inside: avoid; }
figure img { display: block; max-width: 100%; height: auto; border: 1px solid var(--rule); border-radius: 4px;
  background: #fff; }
figcaption { margin-top: 0.3rem; overflow-wrap: anywhere; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); gap: 1rem 1.5rem; }
.charts img { max-height: 44rem; width: auto; }
@media print { body { max-width: none; padding: 0; font-size: 11px; background: #fff; color: #000; }
  nav { display: none; } .wide { overflow: visible; } thead th { position: static; } h2 { break-after: avoid; }
  .gallery { grid-template-columns: 1fr 1fr; } tr { break-inside: avoid; } }
"""
