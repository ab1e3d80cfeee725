"use strict";

const VIEWS = [
  { value: "spectrogram", title: "Spectrogram" },
  { value: "difference", title: "Difference" },
  { value: "waveform", title: "Waveform" },
];

function clock(seconds) {
  const whole = Math.floor(seconds + 1e-6);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/* The outline of a sound as one closed path: up along the highest samples, back the lowest. */
function outline(peaks, top) {
  const columns = peaks.length / 2;
  const points = [];
  for (let i = 0; i < columns; i++) points.push(`${i},${-Math.max(1, peaks[2 * i + 1])}`);
  for (let i = columns - 1; i >= 0; i--) points.push(`${i},${-Math.min(-1, peaks[2 * i])}`);
  return make("svg", {
    class: "wave", viewBox: `0 ${-top} ${columns} ${2 * top}`, preserveAspectRatio: "none",
    "aria-hidden": "true",
  }, make("path", { d: `M${points.join("L")}Z` }));
}

function gainText(source) {
  if (source.silent) return "silent";
  const sign = source.gain < 0 ? "−" : "+";
  return `${sign}${Math.abs(source.gain).toFixed(1)} dB`;
}

function spectrogram(stem, source, view, name) {
  const shows = view === "difference" && source.difference ? "difference" : "spectrogram";
  const text = shows === "difference"
    ? `Difference between ${name} and the reference`
    : `Spectrogram of ${name}`;
  return make("div", { class: "spectrogram" },
    make("img", { src: source[shows], alt: text, loading: "lazy", draggable: "false" }),
    ...stem.ticks.map(([label, place]) => make("span", {
      style: `bottom: ${100 * place}%`, "aria-hidden": "true",
    }, label)));
}

/* One lane a source: what it is, how it looks, and a place to click. */
function drawLanes(stem, view, describe, { choose: pick, seek }) {
  const lanes = document.getElementById("lanes");
  lanes.dataset.view = view;
  const top = Math.max(10, ...stem.sources.flatMap(({ peaks }) => peaks.map(Math.abs)));
  lanes.replaceChildren(...stem.sources.map((source, index) => {
    const { name, colour } = describe(source);
    const pictures = make("div", { class: "pictures" }, outline(source.peaks, top));
    if (view !== "waveform") pictures.append(spectrogram(stem, source, view, name));
    pictures.append(make("div", { class: "head" }));
    const move = (event) => {
      const box = pictures.getBoundingClientRect();
      seek(((event.clientX - box.left) / box.width) * stem.seconds);
    };
    let holds = false;
    pictures.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      holds = event.pointerType === "mouse";
      if (holds) pictures.setPointerCapture(event.pointerId);
    });
    pictures.addEventListener("pointermove", (event) => holds && event.buttons && move(event));
    pictures.addEventListener("lostpointercapture", () => { holds = false; });
    // A finger that scrolls the page gives no click, so it does not seek.
    pictures.addEventListener("click", move);
    const gain = source.silent
      ? "too quiet to be matched"
      : `played at ${gainText(source)}`;
    return make("li", {
      class: "lane", style: `--colour: ${colour}`, onclick: () => pick(index),
    }, make("div", { class: "lane-head" },
      index < 9 ? make("kbd", { title: "Key" }, String(index + 1)) : null,
      make("b", {}, name), make("span", { class: "quiet" }, gain)), pictures);
  }));
}

function drawAxis(stem) {
  const most = window.innerWidth < 600 ? 4 : 6;
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600].find((s) => stem.seconds <= s * most) ?? 3600;
  const first = Math.ceil(stem.start / step) * step;
  const count = Math.floor((stem.start + stem.seconds - first) / step + 1e-6) + 1;
  const axis = document.getElementById("axis");
  axis.replaceChildren(...Array.from({ length: Math.max(0, count) }, (_, index) => {
    const time = first + index * step;
    const place = `${(100 * (time - stem.start)) / stem.seconds}%`;
    return make("span", { style: `left: ${place}; transform: translateX(-${place})` }, clock(time));
  }));
}

function drawLegend(report, view) {
  const legend = document.getElementById("legend");
  const scale = (colours) => make("i", {
    style: `background: linear-gradient(to right, ${colours})`,
  });
  const parts = {
    spectrogram: [`−${report.rangeDb} dB`, scale(report.gradients.levels), "loudest",
      "Original level, one scale for all sources · mel frequency in Hz"],
    difference: [`−${report.differenceDb} dB missing`, scale(report.gradients.signs),
      `+${report.differenceDb} dB added`,
      "Source minus reference, original level; the reference itself as a spectrogram"],
    waveform: ["As played: matched in loudness"],
  };
  legend.replaceChildren(...parts[view].map((part) =>
    typeof part === "string" ? make("span", {}, part) : part));
}
