/**
 * Runs on the browser's audio thread: turns what the microphone hears into 16-bit samples at the context's own rate,
 * about 30 ms at a time, together with how loud they are. Every instant is accounted for: where the microphone
 * delivers nothing, silence is sent, so that the times of the captions stay right.
 * Deliberately absent: resampling, which the server does better.
 */
class Capture extends AudioWorkletProcessor {
  #chunk = new Int16Array(Math.max(1, Math.round((sampleRate * 0.03) / 128)) * 128);
  #filled = 0;
  #energy = 0;
  #stopped = false;

  constructor() {
    super();
    // Any message means: that was all.
    this.port.onmessage = () => {
      if (this.#stopped) return;
      this.#stopped = true;
      this.#post(true);
    };
  }

  process([channels]) {
    if (this.#stopped) return false;
    const length = channels[0]?.length ?? 128;
    for (let n = 0; n < length; n += 1) {
      let sum = 0;
      for (const channel of channels) sum += channel[n];
      const sample = Math.max(-1, Math.min(1, sum / (channels.length || 1)));
      this.#energy += sample * sample;
      this.#chunk[this.#filled] = Math.round(sample * 32767);
      this.#filled += 1;
      if (this.#filled === this.#chunk.length) this.#post(false);
    }
    return true;
  }

  #post(last) {
    const samples = this.#chunk.slice(0, this.#filled);
    const level = this.#filled ? Math.sqrt(this.#energy / this.#filled) : 0;
    this.port.postMessage({ samples, level, last }, [samples.buffer]);
    this.#filled = 0;
    this.#energy = 0;
  }
}

registerProcessor("capture", Capture);
