"use strict";

const player = new Player(drawPlayer, (address) => {
  say(address
    ? `${address} does not play here. Is it beside this page? A browser that plays no `
      + `${report.container} needs a report made with --format mp3.`
    : "The browser did not start the sound; press play again.");
});

function drawPlayer() {
  const stem = current();
  const { active, playing } = player;
  get("play").disabled = !stem;
  get("play").setAttribute("aria-pressed", String(playing));
  get("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  get("play").querySelector("path").setAttribute("d",
    playing ? "M6 4h4v16H6zM14 4h4v16h-4z" : "M7 4v16l13-8z");
  get("loop").setAttribute("aria-pressed", String(player.loops));
  if (stem) {
    const { name, colour } = describe(stem.sources[active]);
    get("now-source").textContent = name;
    get("now").style.setProperty("--colour", colour);
    mark(get("sources"), active);
    [...get("lanes").children].forEach((lane, index) =>
      lane.toggleAttribute("data-active", index === active));
  }
  drawPosition();
}

function drawPosition() {
  const stem = current();
  if (!stem) return;
  const { position } = player;
  const times = `${clock(stem.start + position)} of ${clock(stem.song)}`;
  if (get("now-time").textContent !== times) get("now-time").textContent = times;
  get("seek").value = position;
  get("seek").setAttribute("aria-valuetext", times);
  const share = `${(100 * position) / stem.seconds}%`;
  for (const head of document.querySelectorAll(".head")) head.style.left = share;
}

function tick() {
  if (player.playing) drawPosition();
  requestAnimationFrame(tick);
}

function next(values, value) {
  return values[(values.indexOf(value) + 1) % values.length];
}

const KEYS = {
  " ": () => player.toggle(),
  ArrowLeft: () => player.seek(player.position - 2),
  ArrowRight: () => player.seek(player.position + 2),
  n: () => show({ track: state.track + 1 }),
  p: () => show({ track: state.track - 1 }),
  s: () => show({ stem: next(loaded.get(state.track)?.stems.map(({ name }) => name) ?? [""],
    state.stem) }),
  v: () => show({ view: next(VIEWS.map(({ value }) => value), state.view) }),
  l: () => toggleLoop(),
};

function toggleLoop() {
  player.loops = !player.loops;
  drawPlayer();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { target } = event;
  // These have a use of their own for the key.
  if (target.matches("select")) return;
  if (event.key === " " && target.matches("button:not([role=radio]), summary")) return;
  if (event.key.startsWith("Arrow") && target.matches("input, .scroll")) return;
  const action = /^[1-9]$/.test(event.key) ? () => pick(Number(event.key) - 1) : KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

get("play").addEventListener("click", () => player.toggle());
get("loop").addEventListener("click", toggleLoop);
get("seek").addEventListener("input", () => player.seek(Number(get("seek").value)));
get("previous").addEventListener("click", KEYS.p);
get("next").addEventListener("click", KEYS.n);
get("track").addEventListener("change", () => show({ track: Number(get("track").value) }));
get("tracks-stem").addEventListener("change", () => drawTracks());
get("metric").addEventListener("change", () => {
  state.metric = get("metric").value;
  drawSummary();
  drawTracks();
});

drawHead();
state.metric = report.metrics.find(({ name }) => report.summary[name])?.name ?? "";
get("metric").value = state.metric;
drawSummary();
const wanted = new URLSearchParams(location.hash.slice(1));
const view = VIEWS.find(({ value }) => value === wanted.get("view"))?.value ?? "spectrogram";
show({ track: (Number(wanted.get("track")) || 1) - 1, stem: wanted.get("stem") ?? "", view });
requestAnimationFrame(tick);
