"use strict";

/* Every track as a dot, a panel a stem and a row a system, all on one scale. For the eye only: the
   same numbers stand in the tables, so it is hidden from those who listen to the page. */
function drawPlot(container, metric, stems, { swatchColour, pick }) {
  const values = (stem, system) => report.scores[metric.name]?.[stem]?.[system] ?? [];
  const known = stems.flatMap((stem) => report.systems.flatMap((system) => values(stem, system)))
    .filter((value) => value !== null);
  container.hidden = known.length < 2;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const place = (value) => `${high > low ? (100 * (value - low)) / (high - low) : 50}%`;

  const dot = (stem, system) => (value, track) => {
    if (value === null) return null;
    const canHear = track < report.heard;
    return make("i", {
      style: `left: ${place(value)}`,
      class: canHear ? "dot to-hear" : "dot",
      title: `${report.tracks[track]}: ${number(value)}`,
      onclick: canHear ? () => pick(track, stem) : null,
    });
  };
  const row = (stem) => (system, index) => {
    const found = report.summary[metric.name]?.[stem]?.[system];
    const bar = (name, from, to) => make("i", {
      class: name, style: `left: ${place(from)}; width: calc(${place(to)} - ${place(from)})`,
    });
    return make("div", { class: "dots", style: `--colour: ${swatchColour(index)}` },
      typeof found?.low === "number" ? bar("interval", found.low, found.high) : null,
      ...values(stem, system).map(dot(stem, system)),
      typeof found?.value === "number" ? bar("aggregate", found.value, found.value) : null);
  };
  container.replaceChildren(...stems.map((stem) => make("div", { class: "panel" },
    make("div", { class: "panel-title" }, stem),
    ...report.systems.map(row(stem)),
    make("div", { class: "panel-axis" }, make("span", {}, number(low)),
      make("span", {}, number(high))))));
}
