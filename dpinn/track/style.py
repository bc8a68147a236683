"""How the page of an experiment looks, on a light and a dark screen and on paper."""

from dpinn.track.comparison import GRID
from dpinn.track.drawing import FAINT, INK, PALETTE

COLOURS = {
    INK: ("--ink", "#e4e6eb"),
    FAINT: ("--faint", "#868d99"),
    GRID: ("--grid", "#30343c"),
    PALETTE[0]: ("--blue", "#4ba3f0"),
    PALETTE[1]: ("--vermilion", "#f57a3d"),
    PALETTE[2]: ("--green", "#2cc295"),
    PALETTE[3]: ("--purple", "#e59fc9"),
    PALETTE[4]: ("--orange", "#f2b632"),
    PALETTE[5]: ("--sky", "#a5dcff"),
}
"""Of the figures on white: the variable of the page that stands for each, its value on dark."""

SURFACES = {"#ffffff": ("--paper", "#14161a"), "#f5f6f8": ("--shade", "#1d2026")}
"""The same for what lies below."""


def variables() -> str:
    """The colours of the page: dark where the reader's screen is, and never on paper."""
    colours = COLOURS | SURFACES
    light = " ".join(f"{name}: {value};" for value, (name, _) in colours.items())
    dark = " ".join(f"{name}: {value};" for name, value in colours.values())
    return (
        f"\n:root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    )


STYLE = """
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 3vw, 2.5rem) 4rem; max-width: 80rem;
  background: var(--paper); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.4rem; margin: 2.75rem 0 .25rem; border-top: 1px solid var(--grid);
  padding-top: 1.25rem; overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .25rem; }
a { color: inherit; text-underline-offset: .2em; }
code { font-family: ui-monospace, "Liberation Mono", monospace; font-size: .9em;
  overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1rem 0; }
.quiet, figcaption { color: var(--ink); opacity: .72; font-size: .9rem; max-width: 60rem; }
figure { margin: 0 0 1.75rem; }
figcaption { margin-top: .4rem; }
.wide { overflow-x: auto; }
.wide > svg { display: block; width: 100%; min-width: 44rem; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .5rem; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child, .text { text-align: left; }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--faint); font-weight: 600; }
tbody tr:not(.problem) { border-bottom: 1px solid var(--grid); }
tbody th { font-weight: 500; }
tr.problem th { padding-top: 1.1rem; border-bottom: 1px solid var(--faint); white-space: normal; }
tr.problem b { font-size: 1.15em; margin-right: .75rem; }
tr.problem .quiet, .mark { font-size: 1em; }
td small { display: block; opacity: .72; font-size: .92em; font-weight: 400; }
td.wrap { white-space: normal; min-width: 6rem; text-align: left; }
.best { font-weight: 700; }
.mark { background: var(--shade); border-left: 3px solid var(--vermilion); padding: 0 .45rem;
  margin-left: .75rem; font-weight: 500; }
.swatch { display: inline-block; width: 1.5rem; height: .65rem; margin-right: .45rem;
  overflow: visible; }
details { margin-top: 1.5rem; }
summary { cursor: pointer; font-weight: 600; font-size: 1.05rem; padding: .4rem 0; }
@media print {
  @page { size: A4 portrait; margin: 12mm; }
  @page wide { size: A4 landscape; margin: 12mm; }
  #table, #runs { page: wide; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  section.problem + section { break-before: page; }
  h2, h3 { break-after: avoid; }
  h2 { border-top: 0; margin-top: 0; padding-top: 0; }
  figure, tr { break-inside: avoid; }
  figure { margin-bottom: .5rem; }
  h3 { margin-top: .5rem; }
  figcaption { font-size: 7.5pt; line-height: 1.35; margin-top: 0; }
  .wide { overflow: visible; }
  .wide > svg { min-width: 0; }
  table { font-size: 7.5pt; }
  th, td { padding: .15rem .3rem; }
  thead { display: table-header-group; }
  details::details-content { content-visibility: visible; display: block; }
}
"""
