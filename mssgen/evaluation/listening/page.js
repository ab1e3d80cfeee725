'use strict';
// One listening test that runs from a folder: sounds arrive as scripts, because a page that was
// opened from a disk may load scripts but no other files.
const test = JSON.parse(document.getElementById('test').textContent);
const isMushra = test.kind === 'mushra';
const WORDS = ['bad', 'poor', 'fair', 'good', 'excellent'];
const FADE_S = 0.008;
const main = document.getElementById('main');

// --- small helpers ---
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
function show(...children) {
  main.replaceChildren(...children);
  main.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}
function say(text) { document.getElementById('status').textContent = text; }
function word(score) { return WORDS[Math.min(4, Math.floor(score / 20))]; }

// The same listener always meets the same order (FNV-1a, then mulberry32).
function randomOf(text) {
  let state = 2166136261;
  for (const byte of new TextEncoder().encode(text)) {
    state = Math.imul(state ^ byte, 16777619);
  }
  return () => {
    state = (state + 0x6D2B79F5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
function shuffled(items, random) {
  const order = [...items];
  for (let last = order.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [order[last], order[other]] = [order[other], order[last]];
  }
  return order;
}

// --- sounds ---
const arrived = new Map();
window.mssgenSound = (file, base64) => {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  arrived.set(file, bytes.buffer);
};
let context = null;
function audioContext() {
  context ??= new (window.AudioContext || window.webkitAudioContext)();
  if (context.state === 'suspended') context.resume();
  return context;
}
function load(file) {
  return new Promise((resolve, reject) => {
    const script = make('script', { src: file });
    script.onload = () => {
      script.remove();
      const bytes = arrived.get(file);
      arrived.delete(file);
      if (!bytes) return reject(new Error(`${file} is damaged`));
      audioContext().decodeAudioData(bytes, resolve,
        () => reject(new Error(`this browser cannot decode ${file}`)));
    };
    script.onerror = () => { script.remove(); reject(new Error(`${file} is missing`)); };
    document.head.append(script);
  });
}

// All sounds run together and one of them is heard: switching keeps the position to the sample.
class Player {
  constructor(buffers, onchange) {
    this.buffers = buffers;
    this.onchange = onchange;
    this.duration = Math.min(...buffers.map(buffer => buffer.duration));
    this.from = 0;
    this.to = this.duration;
    this.current = null;
    this.isPlaying = false;
    this.offset = 0;
    this.played = buffers.map(() => 0);
    this.timer = setInterval(() => this.tick(), 50);
  }
  get position() {
    if (!this.isPlaying) return this.offset;
    const time = this.startedAt + Math.max(0, context.currentTime - this.startedTime);
    return time < this.to ? time : this.from + (time - this.from) % (this.to - this.from);
  }
  select(index) {
    if (this.isPlaying && this.current === index) return this.pause();
    this.current = index;
    if (!this.isPlaying) this.start();
    else this.fade();
    this.onchange();
  }
  toggle() {
    if (this.isPlaying) return this.pause();
    this.current ??= 0;
    this.start();
    this.onchange();
  }
  start() {
    const audio = audioContext(), when = audio.currentTime + 0.03;
    if (this.offset < this.from || this.offset >= this.to - 0.05) this.offset = this.from;
    this.voices = this.buffers.map(buffer => {
      const source = audio.createBufferSource(), gain = audio.createGain();
      Object.assign(source, { buffer, loop: true, loopStart: this.from, loopEnd: this.to });
      gain.gain.value = 0;
      source.connect(gain).connect(audio.destination);
      source.start(when, this.offset);
      return { source, gain };
    });
    this.startedTime = when;
    this.startedAt = this.offset;
    this.isPlaying = true;
    this.ticked = audio.currentTime;
    this.fade();
  }
  fade() {
    this.voices.forEach(({ gain }, index) => {
      gain.gain.setTargetAtTime(index === this.current ? 1 : 0, context.currentTime, FADE_S);
    });
  }
  pause() {
    if (!this.isPlaying) return;
    this.offset = this.position;
    this.isPlaying = false;
    for (const { source, gain } of this.voices) {
      gain.gain.setTargetAtTime(0, context.currentTime, FADE_S);
      source.stop(context.currentTime + 0.06);
    }
    this.onchange();
  }
  seek(time) {
    const wasPlaying = this.isPlaying;
    this.pause();
    this.offset = Math.min(Math.max(time, this.from), this.to - 0.05);
    if (wasPlaying) this.start();
    this.onchange();
  }
  loop(from, to) {
    this.from = Math.max(0, Math.min(from, this.duration - 0.5));
    this.to = Math.min(this.duration, Math.max(to, this.from + 0.5));
    this.seek(this.position);
  }
  tick() {
    if (this.isPlaying) {
      this.played[this.current] += Math.max(0, context.currentTime - this.ticked);
      this.ticked = context.currentTime;
    }
    this.onchange();
  }
  close() { this.pause(); clearInterval(this.timer); this.onchange = () => {}; }
}

// --- what is kept: in the page, and in the browser so that a reload loses nothing ---
const session = { listener: '', started: '', results: [], comment: '' };
let order = [];
function storageKey() { return `mssgen-listening|${test.test_id}|${session.listener}`; }
function keep() {
  try { localStorage.setItem(storageKey(), JSON.stringify(session)); } catch { /* forbidden */ }
}
function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(storageKey()));
    const known = new Set(test.trials.map(trial => trial.id));
    if (kept && kept.results.every(result => known.has(result.trial))) Object.assign(session, kept);
  } catch { /* nothing there, or forbidden */ }
}
function ratings() {
  return {
    format: 'mssgen-ratings', format_version: 1, test_id: test.test_id, kind: test.kind,
    listener: session.listener, started: session.started, finished: new Date().toISOString(),
    comment: session.comment, trials: session.results,
  };
}

// --- the first page ---
function welcome() {
  const name = make('input', { type: 'text', id: 'listener', autocomplete: 'off', maxlength: 60,
    required: true, 'aria-describedby': 'listener-help' });
  const start = make('button', { type: 'submit', class: 'main', id: 'start' }, 'Start');
  const sample = make('button', { type: 'button', id: 'volume' }, 'Play a sound');
  let player = null;
  sample.addEventListener('click', async () => {
    if (player) return player.toggle();
    sample.disabled = true;
    try {
      const buffer = await load(test.trials[0].reference);
      player = new Player([buffer], () => {
        sample.textContent = player && player.isPlaying ? 'Stop' : 'Play a sound';
      });
      player.toggle();
    } catch (error) { sample.after(` ${error.message}`); }
    sample.disabled = false;
  });
  const task = isMushra
    ? `In each of ${test.trials.length} trials you hear a reference and several versions of it. ` +
      'Rate how similar each version is to the reference, from 0 (bad) to 100 (excellent). ' +
      'One version is the reference itself: rate it 100.'
    : `In each of ${test.trials.length} trials you hear a reference and two versions of it, A and ` +
      'B. Choose the one that you prefer, as a version of the reference.';
  const form = make('form', {
    onsubmit: event => {
      event.preventDefault();
      session.listener = name.value.trim();
      if (!session.listener) return name.focus();
      audioContext();
      if (player) player.close();
      begin();
    },
  },
  make('label', { class: 'above', for: 'listener' }, 'Your name or number'),
  name,
  make('p', { class: 'faint', id: 'listener-help' },
    'It is written into your ratings, and nothing else about you. It also decides in which order ' +
    'the sounds come.'),
  make('div', { class: 'row' }, start));
  show(
    make('h1', {}, test.title),
    make('p', {}, task),
    make('p', {}, 'Use headphones in a quiet room. Set the volume now and do not change it afterwards.'),
    make('div', { class: 'row' }, sample),
    form,
    make('p', { class: 'faint' },
      'Your ratings stay in this browser until you save them to a file at the end.'));
}
function begin() {
  session.started = new Date().toISOString();
  recall();
  const random = randomOf(`${test.test_id}|${session.listener}`);
  order = shuffled(test.trials, random).map(trial => (
    { ...trial, conditions: shuffled(trial.conditions, random) }));
  next();
}
function next() {
  const finished = new Set(session.results.map(result => result.trial));
  const index = order.findIndex(trial => !finished.has(trial.id));
  if (index < 0) return finish();
  run(order[index], finished.size);
}

// --- a trial ---
async function run(trial, nDone) {
  const title = `Trial ${nDone + 1} of ${order.length}`;
  const bar = make('progress', { max: order.length, value: nDone, 'aria-label': 'trials done' });
  show(make('h1', {}, title), bar, make('p', {}, 'Loading audio …'));
  let buffers;
  try {
    const files = [trial.reference, ...trial.conditions.map(condition => condition.file)];
    buffers = await Promise.all(files.map(load));
  } catch (error) {
    return show(make('h1', {}, title),
      make('p', {}, `A sound could not be loaded: ${error.message}. Copy the whole folder of the ` +
        'test and open its index.html.'),
      make('button', { onclick: () => run(trial, nDone) }, 'Try again'));
  }
  const needed = Math.min(test.min_listen_s, ...buffers.map(buffer => buffer.duration));
  const names = trial.conditions.map((_, i) => (isMushra ? `${i + 1}` : 'AB'[i]));
  const answers = trial.conditions.map(() => null);
  let choice = null;
  const began = performance.now();

  const playButtons = ['Reference', ...names].map((name, index) => make('button', {
    type: 'button', 'aria-pressed': 'false', onclick: () => player.select(index),
    'aria-label': index ? `Play version ${name}` : 'Play the reference', 'data-sound': index,
  }, index ? `▶ ${name}` : '▶ Reference'));
  const pause = make('button', { type: 'button', id: 'pause', onclick: () => player.toggle() },
    'Play');
  const canvas = make('canvas', { 'aria-hidden': 'true', height: 84 });
  canvas.addEventListener('click', event => {
    const box = canvas.getBoundingClientRect();
    player.seek((event.clientX - box.left) / box.width * player.duration);
  });
  const ends = ['from', 'to'].map(which => make('input', {
    type: 'range', min: 0, step: 0.1, max: buffers[0].duration.toFixed(1), id: `loop-${which}`,
    value: which === 'from' ? 0 : buffers[0].duration.toFixed(1),
    oninput: () => {
      player.loop(Number(ends[0].value), Number(ends[1].value));
      setEnds();
    },
  }));
  const endLabels = ['from', 'to'].map(which => make('label', { for: `loop-${which}` }));
  const hint = make('span', { class: 'faint', id: 'hint' });
  const onward = make('button', { type: 'button', class: 'main', id: 'next', disabled: true,
    onclick: done }, nDone + 1 < order.length ? 'Next' : 'Finish');

  const sliders = [], outputs = [], radios = [];
  let answerArea;
  if (isMushra) {
    const list = make('ol', { class: 'conditions' });
    names.forEach((name, i) => {
      const output = make('output', { for: `rating-${name}` }, 'listen first');
      const rate = () => {
        answers[i] = Number(slider.value);
        slider.setAttribute('aria-valuetext', `${answers[i]}, ${word(answers[i])}`);
        update();
      };
      // A click too: who means 0 does not move the slider.
      const slider = make('input', { type: 'range', min: 0, max: 100, step: 1, value: 0,
        id: `rating-${name}`, disabled: true, 'aria-label': `Rating of version ${name}`,
        'aria-valuetext': 'not rated yet', oninput: rate, onclick: rate });
      sliders.push(slider);
      outputs.push(output);
      list.append(make('li', {}, playButtons[i + 1], slider, output));
    });
    answerArea = make('div', {},
      make('div', { class: 'scale', 'aria-hidden': 'true' }, make('span', { style: 'border:0' }),
        make('div', {}, ...WORDS.map(text => make('span', {}, text))),
        make('span', { style: 'border:0' })),
      list);
  } else {
    const options = [...names.map(name => [name, `I prefer ${name}`]), ['none', 'No preference']];
    answerArea = make('fieldset', {}, make('legend', {}, 'Which do you prefer?'),
      make('div', { class: 'choices' }, ...options.map(([value, text]) => {
        const radio = make('input', { type: 'radio', name: 'choice', value, disabled: true,
          onchange: () => { choice = value; update(); } });
        radios.push(radio);
        return make('label', {}, radio, text);
      })));
  }
  show(
    make('h1', {}, title), bar,
    make('p', { class: 'faint' }, trial.stem === 'all' ? '' : `You hear: ${trial.stem}`),
    make('div', { class: 'row' }, playButtons[0], ...(isMushra ? [] : playButtons.slice(1)), pause),
    canvas,
    make('div', { class: 'loop' }, endLabels[0], endLabels[1], ends[0], ends[1]),
    answerArea,
    make('div', { class: 'bottom' }, hint, onward),
    make('p', { class: 'faint keys' }, 'Keys: ', make('kbd', {}, '0'), ' reference, ',
      make('kbd', {}, isMushra ? '1' : 'A'), isMushra ? ' … ' : ' ',
      make('kbd', {}, isMushra ? `${Math.min(9, names.length)}` : 'B'), ' versions, ',
      make('kbd', {}, 'Space'), ' play and pause, ', make('kbd', {}, '['), ' ',
      make('kbd', {}, ']'), ' loop from and to here, ', make('kbd', {}, 'L'), ' loop all'));

  const wave = drawing(canvas, buffers[0]);
  const player = new Player(buffers, update);
  function setEnds() {
    ends[0].value = player.from;
    ends[1].value = player.to;
    endLabels[0].textContent = `Loop from ${player.from.toFixed(1)} s`;
    endLabels[1].textContent = `to ${player.to.toFixed(1)} s`;
  }
  function update() {
    playButtons.forEach((button, index) => {
      const isOn = player.isPlaying && player.current === index;
      button.setAttribute('aria-pressed', String(isOn));
    });
    pause.textContent = player.isPlaying ? 'Pause' : 'Play';
    const isHeard = player.played.map(time => time >= needed - 0.06);
    sliders.forEach((slider, i) => {
      slider.disabled = !isHeard[i + 1];
      slider.classList.toggle('unrated', answers[i] === null);
      outputs[i].textContent = answers[i] !== null ? `${answers[i]} ${word(answers[i])}`
        : isHeard[i + 1] ? 'not rated yet' : 'listen first';
    });
    radios.forEach(radio => { radio.disabled = !isHeard.every(Boolean); });
    const toHear = isHeard.filter(heard => !heard).length;
    const toRate = isMushra ? answers.filter(answer => answer === null).length : choice ? 0 : 1;
    onward.disabled = toHear + toRate > 0;
    hint.textContent = toHear ? `${toHear} of ${isHeard.length} sounds still to be heard ` +
      `(${needed.toFixed(0)} s each)`
      : toRate ? (isMushra ? `${toRate} left to rate` : 'Choose one') : 'Done: continue';
    hint.classList.toggle('done', !onward.disabled);
    wave(player);
  }
  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isText = event.target.matches('input[type=text], textarea');
    if (isText) return;
    const key = event.key.toLowerCase();
    const index = key === 'r' ? 0 : /^[0-9]$/.test(key) ? Number(key)
      : isMushra ? -1 : ['a', 'b'].indexOf(key) + 1 || -1;
    if (index >= 0 && index < buffers.length) player.select(index);
    else if (key === ' ' && !event.target.matches('button, input[type=radio]')) player.toggle();
    else if (key === '[') player.loop(player.position, player.to);
    else if (key === ']') player.loop(player.from, player.position);
    else if (key === 'l') player.loop(0, player.duration);
    else return;
    setEnds();
    event.preventDefault();
  }
  document.addEventListener('keydown', keys);
  setEnds();
  update();

  function done() {
    document.removeEventListener('keydown', keys);
    player.close();
    const result = {
      trial: trial.id, track: trial.track, stem: trial.stem,
      seconds: Math.round((performance.now() - began) / 100) / 10,
      reference_played_s: rounded(player.played[0]),
    };
    if (isMushra) {
      result.ratings = trial.conditions.map(({ name, role }, i) => (
        { condition: name, role, score: answers[i], played_s: rounded(player.played[i + 1]) }));
    } else {
      const [first, second] = trial.conditions.map(condition => condition.name);
      Object.assign(result, { first, second,
        preferred: choice === 'A' ? first : choice === 'B' ? second : null });
    }
    session.results.push(result);
    keep();
    say(`${title} done`);
    next();
  }
}
function rounded(seconds) { return Math.round(seconds * 10) / 10; }

// The reference's waveform with the loop and the position; returns what draws it again.
function drawing(canvas, buffer) {
  const scale = window.devicePixelRatio || 1;
  const pen = canvas.getContext('2d');
  const samples = buffer.getChannelData(0);
  let peaks = [], width = 0;
  return player => {
    const wanted = Math.round(canvas.clientWidth * scale), height = Math.round(84 * scale);
    if (!wanted) return;
    if (wanted !== width) {
      width = canvas.width = wanted;
      canvas.height = height;
      peaks = Array.from({ length: width }, (_, x) => {
        let peak = 0;
        const end = Math.floor((x + 1) * samples.length / width);
        for (let i = Math.floor(x * samples.length / width); i < end; i += 4) {
          peak = Math.max(peak, Math.abs(samples[i]));
        }
        return peak;
      });
      const top = Math.max(...peaks, 1e-9);
      peaks = peaks.map(peak => peak / top);
    }
    const style = getComputedStyle(document.documentElement);
    const at = time => time / player.duration * width;
    pen.clearRect(0, 0, width, height);
    pen.fillStyle = style.getPropertyValue('--loop');
    pen.fillRect(at(player.from), 0, at(player.to) - at(player.from), height);
    pen.fillStyle = style.getPropertyValue('--wave');
    peaks.forEach((peak, x) => {
      const tall = Math.max(1, peak * (height - 8));
      pen.fillRect(x, (height - tall) / 2, 1, tall);
    });
    pen.fillStyle = style.getPropertyValue('--accent');
    pen.fillRect(at(player.position) - scale, 0, 2 * scale, height);
  };
}

// --- the last page ---
function finish() {
  const text = make('pre', { id: 'ratings', tabindex: 0, 'aria-label': 'Your ratings' });
  const comment = make('textarea', { id: 'comment', maxlength: 2000,
    oninput: () => { session.comment = comment.value; keep(); refresh(); } });
  comment.value = session.comment;
  function refresh() { text.textContent = JSON.stringify(ratings(), null, 1); }
  refresh();
  const safe = session.listener.replace(/[^\w-]+/g, '_').slice(0, 40) || 'listener';
  const save = make('button', { type: 'button', class: 'main', id: 'save', onclick: () => {
    const url = URL.createObjectURL(
      new Blob([JSON.stringify(ratings(), null, 1)], { type: 'application/json' }));
    const link = make('a', { href: url, download: `ratings-${test.test_id}-${safe}.json` });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    say('Your ratings were saved as a file.');
  } }, 'Save my ratings');
  show(
    make('h1', {}, 'Thank you!'),
    make('p', {}, 'All trials are done. Save your ratings and send the file to whoever asked you.'),
    make('label', { class: 'above', for: 'comment' }, 'Anything to add? (optional)'), comment,
    make('div', { class: 'row' }, save),
    make('details', {}, make('summary', {}, 'If no file appears: copy this text'), text));
}

welcome();
