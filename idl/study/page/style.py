"""How the page looks: by day and by night, on a phone and on paper, without anything from elsewhere."""

_COLOURS = {
    # name: (light, dark). Text on its ground has a contrast of 4.5 or more in both.
    "paper": ("#ffffff", "#1b2026"),
    "ground": ("#f4f5f3", "#13171b"),
    "ink": ("#1c2228", "#e8eaec"),
    "faint": ("#56606a", "#a5afb9"),
    "rule": ("#dcdfe2", "#353d45"),
    "track": ("#e9ebec", "#2a3138"),
    "accent": ("#225a80", "#7fb8de"),
    "second": ("#a6541f", "#e2a172"),
    "third": ("#6b5a99", "#b7a6e3"),
    "quiet": ("#8a949e", "#75808b"),
    "yes": ("#14613f", "#7ed3a8"),
    "yes-ground": ("#dff2e7", "#173829"),
    "no": ("#3f4c58", "#c3ccd5"),
    "no-ground": ("#e6e9ec", "#2c343c"),
    "open": ("#704a00", "#ecc069"),
    "open-ground": ("#fbeecf", "#3a2e12"),
    "bad": ("#8f2626", "#f0a3a3"),
    "bad-ground": ("#fae3e3", "#402020"),
}


def _colours(which: int) -> str:
    return "".join(f"--{name}:{pair[which]};" for name, pair in _COLOURS.items())


_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
  "Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums;overflow-wrap:break-word}
main{max-width:66rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:clamp(1.6rem,1.2rem + 2vw,2.4rem);line-height:1.15;margin:0 0 .5rem;letter-spacing:-.015em;
  text-wrap:balance}
h2{font-size:1.3rem;line-height:1.25;margin:3.25rem 0 .35rem;letter-spacing:-.005em}
h3{font-size:1.05rem;line-height:1.3;margin:0}
h4{font-size:.95rem;margin:1.5rem 0 .25rem}
p{margin:.35rem 0 .8rem;max-width:46rem;text-wrap:pretty}
.lead{font-size:1.05rem}
.faint,small{color:var(--faint)}
small{font-size:.85rem;font-weight:400}
.card{background:var(--paper);border:1px solid var(--rule);border-radius:.75rem;padding:1.15rem 1.25rem}
.glance{list-style:none;margin:1rem 0 0;padding:0;max-width:40rem}
.glance li{display:flex;flex-wrap:wrap;justify-content:space-between;align-items:center;gap:.2rem 1rem;
  padding:.35rem 0;border-top:1px solid var(--rule)}
section>.card{margin:.8rem 0 1.1rem}
.cards{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));margin:1.25rem 0}
.card>h2{margin:0 0 .5rem}
.card>.plot{margin-top:0}
.card>p:last-child,.answer>p:last-child{margin-bottom:0}
.answer{margin-top:.9rem}
.answer+.answer{border-top:1px solid var(--rule);padding-top:1rem}
.badges{display:flex;flex-wrap:wrap;gap:.35rem .7rem;align-items:center}
.badge{display:inline-flex;align-items:center;gap:.4em;font-weight:700;font-size:.9rem;letter-spacing:.03em;
  padding:.2em .7em;border-radius:2em;border:1px solid currentColor;white-space:nowrap}
.badge svg{width:.95em;height:.95em;fill:none;stroke:currentColor;stroke-width:2.4;stroke-linecap:round;
  stroke-linejoin:round}
.learned{color:var(--yes);background:var(--yes-ground)}
.not-learned{color:var(--no);background:var(--no-ground)}
.inconclusive{color:var(--open);background:var(--open-ground)}
.invalid{color:var(--bad);background:var(--bad-ground)}
.bars{width:100%;border-collapse:collapse;font-size:.92rem;margin:.3rem 0 .2rem}
.bars caption{text-align:left;color:var(--faint);font-size:.85rem;padding-bottom:.2rem}
.bars th{font-weight:400;text-align:left;width:52%;padding:.16rem .6rem .16rem 0;line-height:1.3}
.bars td{padding:.16rem 0;white-space:nowrap;width:4.6rem;text-align:right}
.bars td.bar{width:auto}
.bars i{display:block;height:.7rem;border-radius:.2rem;background:var(--quiet);min-width:2px;
  print-color-adjust:exact;-webkit-print-color-adjust:exact}
.bars tr.mine th,.bars tr.mine td{font-weight:650}
.bars tr.mine i{background:var(--accent)}
.words{display:grid;gap:.5rem .9rem;align-items:center;grid-template-columns:max-content 1fr;
  margin:.6rem 0 0;font-size:.95rem}
.words dt{margin:0}
.words dd{margin:0}
.note{border-left:3px solid var(--rule);padding:.1rem 0 .1rem .9rem;color:var(--faint);margin:.5rem 0}
details{margin:.9rem 0}
summary{cursor:pointer;font-weight:600;padding:.15rem 0}
summary small{font-weight:400}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
table.figures{border-collapse:collapse;font-size:.85rem;margin:.4rem 0 1rem}
.figures caption{text-align:left;font-weight:600;padding:.3rem 0}
.figures th,.figures td{padding:.2rem .8rem .2rem 0;text-align:right;border-bottom:1px solid var(--rule);
  white-space:nowrap}
.figures thead th{color:var(--faint);font-weight:500;vertical-align:bottom}
.figures th:first-child,.figures .text{text-align:left}
.figures td.text,.figures tbody th{white-space:normal;min-width:7rem}
.figures tbody th{font-weight:400}
table.plot{width:100%;border-collapse:collapse;font-size:.9rem;margin:.6rem 0 .2rem}
.plot caption{text-align:left;color:var(--faint);font-size:.88rem;padding:0 0 .35rem}
.plot th{font-weight:400;text-align:left;width:34%;padding:.12rem .8rem .12rem 0;line-height:1.3}
.plot td{padding:0;vertical-align:middle}
.plot td.line{position:relative;height:1.75rem}
.plot td.value{width:13.5rem;padding-left:.8rem;white-space:nowrap}
.plot tr.mine th,.plot tr.mine b{font-weight:650}
.plot b{font-weight:500}
.plot td.line svg{position:absolute;inset:0;display:block;width:100%;height:100%;overflow:visible}
.plot tr.group th{font-weight:600;padding-top:.9rem}
.plot tr.ticks td{height:1.4rem}
.axis{position:relative;display:block;height:1.2rem;color:var(--faint);font-size:.8rem}
.axis span{position:absolute;transform:translateX(-50%);white-space:nowrap}
svg .grid{stroke:var(--rule);stroke-width:1}
svg .mark{stroke:var(--faint);stroke-width:1.3;stroke-dasharray:4 3}
svg .span{stroke:var(--quiet);stroke-width:3}
svg .dot{stroke:var(--quiet);stroke-width:9;stroke-linecap:round}
tr.mine svg .span{stroke:var(--accent)}
tr.mine svg .dot{stroke:var(--accent)}
svg *{vector-effect:non-scaling-stroke}
.chart{position:relative;margin:.8rem 0 2.1rem 3.4rem;height:17rem}
.chart svg{display:block;width:100%;height:100%;overflow:visible}
.chart span{position:absolute;color:var(--faint);font-size:.8rem;line-height:1}
.chart .y{right:100%;margin-right:.5rem;transform:translateY(50%)}
.chart .x{top:100%;margin-top:.45rem;transform:translateX(-50%)}
.chart path,.legend path{fill:none;stroke-width:2;stroke-linejoin:round}
.legend{list-style:none;margin:0 0 1rem;padding:0;display:grid;gap:.15rem 1.4rem;font-size:.88rem;
  grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr))}
.legend li{display:flex;gap:.6rem;align-items:center}
.legend svg{width:2.2rem;height:.9rem;flex:none;overflow:visible}
.c0{stroke:var(--accent)}.c1{stroke:var(--second)}.c2{stroke:var(--third)}.c3{stroke:var(--quiet)}
path.c0.val,.legend path.c0.val{stroke-width:3}
path.dash{stroke-dasharray:7 4}path.dots{stroke-dasharray:2 4}
path.point{stroke-width:10;stroke-linecap:round}
.shown{display:grid;gap:.9rem .7rem;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));margin:.7rem 0 1.6rem}
.pair{display:grid;gap:.45rem;align-content:start;margin:0}
.pair figcaption{font-size:.88rem;line-height:1.3;min-height:2.6em}
figure{margin:0}
.tile{font-size:.78rem;color:var(--faint);line-height:1.35}
img{display:block;width:100%;height:auto;border-radius:.3rem;background:#fff}
.wide img{min-width:46rem}
.keys{display:flex;flex-wrap:wrap;gap:.8rem}
.keys figure{max-width:100%}
.keys img{width:auto;max-width:100%}
dl.facts{display:grid;grid-template-columns:minmax(8rem,max-content) 1fr;gap:.3rem 1.1rem;
  font-size:.92rem;margin:.6rem 0}
.facts dt{color:var(--faint)}
.facts dd{margin:0;min-width:0;overflow-wrap:anywhere}
code{font:.88em/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
footer{margin-top:3rem;color:var(--faint);font-size:.85rem}
@media (max-width:42rem){
  main{padding:1.25rem .9rem 3rem}
  .card{padding:.95rem 1rem}
  h2{margin-top:2.5rem}
  .plot,.plot tbody,.plot tr,.plot td,.plot th{display:block;width:auto}
  .plot thead{display:none}
  .plot caption{display:block}
  .plot tr{display:grid;grid-template-columns:1fr auto;align-items:baseline;padding:.2rem 0}
  .plot td.line{grid-row:2;grid-column:1/3}
  .plot td.value{width:auto;padding:0}
  .plot tr.ticks{display:block}
  .plot tr.ticks th,.plot tr.ticks td.value{display:none}
  .plot th{padding:0 .6rem 0 0}
  .plot td.line{height:1.3rem}
  .plot .axis{margin:0 .2rem}
  .chart{margin-left:2.9rem;height:14rem}
  .words{grid-template-columns:1fr;gap:.15rem}
  .words dd{margin-bottom:.5rem}
  dl.facts{grid-template-columns:1fr;gap:0}
  .facts dd{margin-bottom:.5rem}
  .bars th{width:44%}
  .shown{grid-template-columns:1fr;gap:1rem}
  .pair{grid-template-columns:1fr 1fr}
  .pair figcaption{grid-column:1/3;min-height:0}
}
@media print{
  :root{LIGHT}
  body{background:#fff;font-size:10pt}
  main{max-width:none;padding:0}
  .card,.pair,.plot tr,.chart,.answer{break-inside:avoid}
  h2,h3,h4,summary{break-after:avoid}
  details::details-content{content-visibility:visible;block-size:auto;opacity:1}
  .scroll{overflow:visible}
  .wide img{min-width:0}
  .figures{font-size:7.5pt}
}
"""

STYLE = (
    f":root{{color-scheme:light dark;{_colours(0)}}}\n"
    f"@media (prefers-color-scheme:dark){{:root{{{_colours(1)}}}}}\n" + _RULES.replace("LIGHT", _colours(0)).strip()
)
