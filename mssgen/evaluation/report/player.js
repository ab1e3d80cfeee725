"use strict";

/* 80 dB down is as good as muted. But browsers take muted sounds off the loudspeaker, and the way
   back costs a gap of some 30 ms. */
const FAINT = 0.0001;

/* iOS leaves the volume to its buttons. */
const HAS_VOLUME = Object.assign(new Audio(), { volume: 0.5 }).volume === 0.5;

/* One clock over several <audio> elements: all of them run, and one is heard. So a switch only
   changes volumes, and nothing is loaded or sought. Works from file://, where neither fetch nor Web
   Audio may touch other files. */
class Player {
  constructor(onChange, onError) {
    this.onChange = onChange;
    this.onError = onError;
    this.audios = [];
    this.active = 0;
    this.seconds = 0;
    this.playing = false;
    this.loops = true;
    setInterval(() => this.align(), 100);
  }

  /* Take other sounds: one address a source, all of the same length. Nothing is read yet. */
  load(addresses, seconds, active) {
    const continues = this.playing;
    this.pause();
    for (const audio of this.audios) {
      audio.onerror = audio.onended = null;
      audio.removeAttribute("src");
      audio.load();
    }
    this.seconds = seconds;
    this.active = active;
    this.audios = addresses.map((address, index) => {
      const audio = new Audio();
      audio.preload = "none";
      this.hear(audio, index === active);
      audio.preservesPitch = false;
      audio.src = address;
      audio.onended = () => this.ended(index);
      audio.onerror = () => this.onError(address);
      return audio;
    });
    if (continues && addresses.length) this.play();
    this.onChange();
  }

  hear(audio, isHeard) {
    if (HAS_VOLUME) audio.volume = isHeard ? 1 : FAINT;
    else audio.muted = !isHeard;
  }

  get position() {
    const audio = this.audios[this.active];
    return audio ? Math.min(audio.currentTime, this.seconds) : 0;
  }

  play() {
    if (!this.audios.length) return;
    if (this.position >= this.seconds - 0.05) this.seek(0);
    this.playing = true;
    this.audios.forEach((audio) => this.start(audio));
    this.onChange();
  }

  start(audio) {
    audio.play().catch((error) => {
      // Leaving a sound before it began is no failure.
      if (error.name === "AbortError" || !this.audios.includes(audio)) return;
      this.pause();
      if (error.name !== "NotSupportedError") this.onError("");
    });
  }

  pause() {
    const position = this.position;
    this.playing = false;
    for (const audio of this.audios) {
      audio.pause();
      audio.playbackRate = 1;
      audio.currentTime = position;
    }
    this.onChange();
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  seek(seconds) {
    const position = Math.max(0, Math.min(seconds, this.seconds));
    for (const audio of this.audios) audio.currentTime = position;
    this.onChange();
  }

  /* Hear another source at the same place. */
  choose(index) {
    if (index === this.active || !this.audios[index]) return;
    const position = this.position;
    const [from, to] = [this.audios[this.active], this.audios[index]];
    this.active = index;
    to.playbackRate = 1;
    if (Math.abs(to.currentTime - position) > 0.06) to.currentTime = position;
    if (this.playing && to.paused) this.start(to);
    this.hear(to, true);
    this.hear(from, false);
    this.onChange();
  }

  /* Keep the others beside the one that is heard: by their speed, and by a jump if far off. */
  align() {
    const lead = this.audios[this.active];
    if (!this.playing || lead.seeking || lead.readyState < 2) return;
    for (const audio of this.audios) {
      if (audio === lead || audio.seeking || audio.readyState < 2) continue;
      const ahead = audio.currentTime - lead.currentTime;
      if (Math.abs(ahead) > 0.25) audio.currentTime = lead.currentTime;
      // Each change of speed costs a few milliseconds: begin late, and then end close.
      const isBeside = Math.abs(ahead) < (audio.playbackRate === 1 ? 0.012 : 0.004);
      audio.playbackRate = isBeside ? 1 : 1 - Math.max(-0.25, Math.min(0.25, ahead));
      if (audio.paused && lead.currentTime < this.seconds - 0.3) this.start(audio);
    }
  }

  ended(index) {
    if (index !== this.active || !this.playing) return;
    if (this.loops) {
      this.seek(0);
      this.audios.forEach((audio) => this.start(audio));
    } else {
      this.pause();
    }
  }
}
