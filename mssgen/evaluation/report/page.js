"use strict";

const report = JSON.parse(document.getElementById("report").textContent);
const get = (id) => document.getElementById(id);
const metrics = new Map(report.metrics.map((metric) => [metric.name, metric]));
const PAGE_ROWS = 10;
const state = { track: -1, stem: "", view: "spectrogram", source: "reference", metric: "" };
const loaded = new Map();
const sorting = { summary: {}, tracks: {}, scores: {} };
const page = { first: 0, size: PAGE_ROWS, changed: () => drawPager() };

function describe({ key }) {
  if (!key.startsWith("system")) {
    return { name: key === "mixture" ? "Mixture" : "Reference", colour: `var(--${key})` };
  }
  const index = Number(key.slice(6)) - 1;
  return { name: report.systems[index], colour: systemColour(index) };
}

/* The dot in a system's colour. */
function swatch(index) {
  return make("span", {
    class: "swatch", "aria-hidden": "true", style: `--colour: ${systemColour(index)}`,
  });
}

function systemColour(index) {
  return `var(--system${(index % 6) + 1})`;
}

function score(metric, stem, system, track) {
  return report.scores[metric]?.[stem]?.[system]?.[track] ?? null;
}

function reason(metric, stem, system, track) {
  return report.reasons[[metric, stem, system, track].join("\n")] ?? null;
}

/* ---- what is on the page before a track is chosen ---- */

function drawHead() {
  const heard = report.heard < report.tracks.length ? `, ${report.heard} of them to hear` : "";
  const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
  get("facts").textContent = [
    `${count(report.tracks.length, "track")}${heard}`,
    count(report.stems.length, "stem"), count(report.systems.length, "system"),
    count(report.metrics.length, "metric")].join(" · ");
  for (const metric of report.metrics) {
    get("metric").append(make("option", { value: metric.name }, metric.title));
    get("definitions").lastElementChild.append(
      make("dt", {}, metric.title),
      make("dd", { id: `metric-${metric.name}` },
        `${metric.definition} Over tracks: ${metric.aggregate}; ${BETTER[metric.better]}.`));
  }
  report.tracks.forEach((name, index) => {
    const option = make("option", { value: index }, `${index + 1}. ${name}`);
    option.disabled = index >= report.heard;
    get("track").append(option);
  });
  for (const stem of report.stems) get("tracks-stem").append(make("option", {}, stem));
  for (const [name, text] of Object.entries(report.about)) {
    get("about").append(make("dt", {}, name), make("dd", {}, text));
  }
  const part = report.seconds
    ? `Excerpts of ${report.seconds} s, where the reference of each stem is loudest; scores `
      + "cover whole tracks."
    : "Whole tracks are played.";
  get("reading").append(...[
    part,
    "All sources of a stem are matched in loudness (ITU-R BS.1770), so that none wins by being "
      + "louder; the gain is shown beside each. Scores, spectrograms and differences use the "
      + "original files.",
    "Difference: orange is what a system added to the reference (bleed, noise), blue is what it "
      + "removed.",
    `Audio is in ${report.container} files beside this page, loaded when played.`,
  ].map((text) => make("li", {}, text)));
}

function drawSummary() {
  const metric = metrics.get(state.metric);
  if (!metric) return;
  get("definition").textContent = `${metric.definition} Shown: the ${metric.aggregate} over `
    + `tracks; ${BETTER[metric.better]}. Small: 95 % bootstrap interval. Below, each dot is a `
    + "track, each bar an average with its interval.";
  const cells = report.summary[metric.name] ?? {};
  const stems = [...report.stems.filter((stem) => cells[stem]),
    ...Object.keys(cells).filter((stem) => !report.stems.includes(stem))];
  const bests = stems.map((stem) =>
    best(metric, report.systems.map((system) => cells[stem]?.[system]?.value)));
  const rows = report.systems.map((system, index) => ({
    cells: [{ key: system, node: make("span", { class: "named" }, swatch(index), system) },
      ...stems.map((stem, column) => {
        const { value, low, high, known, missing } = cells[stem]?.[system]
          ?? { value: null, low: null, high: null, known: 0, missing: 0 };
        return {
          text: number(value), key: value, best: bests[column][index],
          small: [low === null ? null : `${number(low)} to ${number(high)}`,
            missing ? `${known} of ${known + missing}` : null].filter(Boolean).join(" · "),
          title: `${known} track${known === 1 ? "" : "s"}${missing ? `, ${missing} without a value` : ""}`,
        };
      })],
  }));
  const columns = ["System", ...stems].map((title) => ({ title }));
  sorting.summary = {};
  get("summary").replaceChildren(
    sortable(columns, rows, sorting.summary, null, `${metric.title} by system and stem`));
  drawPlot(get("plot"), metric, stems, { swatchColour: systemColour, pick: goTo });
}

/* Show a track, and bring it into view. */
function goTo(track, stem) {
  show({ track, stem });
  get("listen").focus({ preventScroll: true });
  get("listen").scrollIntoView();
}

function drawTracks() {
  const metric = metrics.get(state.metric);
  const stem = get("tracks-stem").value;
  if (!metric) return;
  const several = report.systems.length > 1;
  const rows = report.tracks.map((name, track) => {
    const values = report.systems.map((system) => score(metric.name, stem, system, track));
    const bests = best(metric, values);
    const known = values.filter((value) => value !== null);
    const spread = known.length > 1 ? Math.max(...known) - Math.min(...known) : null;
    const link = make("a", {
      href: `#track=${track + 1}&stem=${encodeURIComponent(stem)}`,
      onclick: (event) => {
        event.preventDefault();
        goTo(track, stem);
      },
    }, name);
    return {
      current: track === state.track,
      cells: [{ node: track < report.heard ? link : make("span", {}, name), key: track },
        ...values.map((value, index) => ({
          text: number(value), key: value, best: bests[index],
          title: reason(metric.name, stem, report.systems[index], track),
        })),
        ...(several ? [{ text: number(spread), key: spread }] : [])],
    };
  });
  const columns = [{ title: "Track" },
    ...report.systems.map((title, index) => ({ title, colour: systemColour(index) })),
    ...(several ? [{ title: "Range" }] : [])];
  get("tracks").replaceChildren(
    sortable(columns, rows, sorting.tracks, page, `${metric.title} of ${stem} by track`));
  drawPager();
}

function drawPager() {
  const total = report.tracks.length;
  if (total <= page.size) return;
  const turn = (step) => () => {
    page.first += step * page.size;
    drawTracks();
  };
  const last = Math.min(page.first + page.size, total);
  const focused = [...get("pager").children].indexOf(document.activeElement);
  get("pager").replaceChildren(
    make("button", { type: "button", disabled: page.first === 0, onclick: turn(-1) }, "Previous"),
    make("span", { "aria-live": "polite" }, `${page.first + 1}–${last} of ${total}`),
    make("button", { type: "button", disabled: last >= total, onclick: turn(1) }, "Next"));
  get("pager").children[focused]?.focus();
}

/* ---- one track, one stem ---- */

function say(text) {
  get("message").textContent = text;
  get("message").hidden = !text;
}

window.mssgenReport = {
  receive(index, payload) {
    loaded.set(index, payload);
    if (index === state.track) drawTrack();
  },
};

/* A script, because a page on a disk may not fetch. */
function request(index) {
  if (loaded.has(index)) return drawTrack();
  const address = `data/${String(index + 1).padStart(4, "0")}.js`;
  const script = make("script", { src: address });
  script.onload = () => script.remove();
  script.onerror = () => say(`${address} is missing beside this page.`);
  document.head.append(script);
  return undefined;
}

function show(change) {
  const before = { ...state };
  Object.assign(state, change);
  state.track = Math.max(0, Math.min(state.track, report.heard - 1));
  if (state.track !== before.track) {
    say("");
    player.load([], 0, 0);
    get("track-title").textContent = report.tracks[state.track];
    get("track").value = state.track;
    get("previous").disabled = state.track === 0;
    get("next").disabled = state.track === report.heard - 1;
    request(state.track);
    turnTo(state.track);
  } else if (state.stem !== before.stem) {
    drawTrack();
  } else if (state.view !== before.view) {
    drawView();
  }
  const words = new URLSearchParams({ track: state.track + 1, stem: state.stem, view: state.view });
  try { history.replaceState(null, "", `#${words}`); } catch { /* some browsers, from a disk */ }
}

/* The page of the table with this track, unless it is sorted in a way of its own. */
function turnTo(track) {
  if (sorting.tracks.column === undefined) page.first = track - (track % page.size);
  drawTracks();
}

function drawTrack() {
  const payload = loaded.get(state.track);
  if (!payload) return;
  const names = payload.stems.map((stem) => stem.name);
  if (payload.error) say(`This track could not be read: ${payload.error}`);
  if (!names.includes(state.stem)) [state.stem = ""] = names;
  choose(get("stems"), names.map((name) => ({ value: name, title: name })), state.stem,
    (stem) => show({ stem }));
  get("notes").textContent = (payload.notes ?? [])
    .map(({ system, note }) => `${system}: ${note}`).join("; ");
  const stem = current();
  drawScores();
  drawView();
  if (!stem) return player.load([], 0, 0);
  choose(get("sources"), stem.sources.map((source, index) => ({
    value: source.key, title: describe(source).name, style: `--colour: ${describe(source).colour}`,
    hint: index < 9 ? `Key ${index + 1}` : null,
  })), state.source, (key) => pick(stem.sources.findIndex((source) => source.key === key)));
  const active = Math.max(0, stem.sources.findIndex(({ key }) => key === state.source));
  get("seek").max = stem.seconds;
  player.load(stem.sources.map((source) => source.sound), stem.seconds, active);
  return undefined;
}

function current() {
  return loaded.get(state.track)?.stems.find((stem) => stem.name === state.stem);
}

function pick(index) {
  const source = current()?.sources[index];
  if (!source) return;
  state.source = source.key;
  player.choose(index);
}

function drawView() {
  choose(get("views"), VIEWS, state.view, (view) => show({ view }));
  const stem = current();
  get("legend").hidden = !stem;
  if (!stem) return [get("lanes"), get("axis")].forEach((part) => part.replaceChildren());
  drawLanes(stem, state.view, describe, { choose: pick, seek: (at) => player.seek(at) });
  drawAxis(stem);
  drawLegend(report, state.view);
  drawPlayer();
  return undefined;
}

function drawScores() {
  const systems = report.systems.filter((system) =>
    report.metrics.some(({ name }) => report.scores[name]?.[state.stem]?.[system]));
  const rows = report.metrics.filter(({ name }) => report.scores[name]?.[state.stem])
    .map((metric) => {
      const values = systems.map((name) => score(metric.name, state.stem, name, state.track));
      const bests = best(metric, values);
      const link = make("a", {
        href: `#metric-${metric.name}`,
        title: `${metric.definition} (${BETTER[metric.better]})`,
        onclick: (event) => {
          event.preventDefault();
          get("definitions").open = true;
          get(`metric-${metric.name}`).scrollIntoView({ block: "center" });
        },
      }, metric.title);
      return {
        cells: [{ node: link, key: metric.title },
          ...values.map((value, index) => ({
            text: number(value), key: value, best: bests[index],
            title: reason(metric.name, state.stem, systems[index], state.track),
          }))],
      };
    });
  const columns = [{ title: "Metric" }, ...systems.map((title) => ({
    title, colour: systemColour(report.systems.indexOf(title)),
  }))];
  const caption = `Metrics of ${state.stem}`;
  get("scores").replaceChildren(make("div", {
    class: "scroll", tabindex: "0", role: "region", "aria-label": caption,
  }, sortable(columns, rows, sorting.scores, null, caption)));
}
