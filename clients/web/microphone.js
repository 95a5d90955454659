/**
 * The microphone: bytes to send, and how loud it is. It delivers either raw samples from the worklet or Opus from the
 * browser's own recorder; loudness always comes from the worklet.
 * Deliberately absent: the connection; whoever opens the microphone says where its bytes go.
 */

/** How a recorder's container is announced to the server. The first one that the browser can write is taken. */
const RECORDINGS = [
  ["audio/webm;codecs=opus", "webm_opus"],
  ["audio/ogg;codecs=opus", "ogg_opus"],
];
const RECORDER_SLICE = 40; // ms

/** Whether the browser can record Opus at all. */
export function recordsOpus() {
  return recording() !== undefined;
}

function recording() {
  return RECORDINGS.find(([type]) => globalThis.MediaRecorder?.isTypeSupported(type));
}

export class Microphone {
  /** What to tell the server: `encoding`, and for raw samples `sample_rate` and `channels`. */
  settings;
  /** Called with each piece of audio, an ArrayBuffer, in order. */
  onaudio = () => {};
  /** Called about 30 times a second with the root mean square of the samples, 0 to 1. */
  onlevel = () => {};
  /** Called when the device goes away. */
  onlost = () => {};

  #tracks;
  #context;
  #worklet;
  #recorder;
  /** Resolves when everything recorded so far has been handed on; blobs are read one after another. */
  #told = Promise.resolve();
  #stopping;

  /**
   * Asks for the microphone. Nothing is heard before `start`.
   * @param {{device: string, opus: boolean, cleanUp: boolean}} wish
   */
  static async open({ device, opus, cleanUp }) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new DOMException("Microphones are for pages over https or on localhost only.", "SecurityError");
    }
    const audio = { channelCount: 1, echoCancellation: cleanUp, noiseSuppression: cleanUp, autoGainControl: true };
    if (device) audio.deviceId = { exact: device };
    const tracks = await navigator.mediaDevices.getUserMedia({ audio });
    const microphone = new Microphone();
    microphone.#tracks = tracks;
    try {
      await microphone.#prepare(opus);
    } catch (error) {
      await microphone.stop();
      throw error;
    }
    return microphone;
  }

  async #prepare(opus) {
    const [track] = this.#tracks.getAudioTracks();
    track.addEventListener("ended", () => this.onlost());
    const { sampleRate } = track.getSettings();
    this.#context = new AudioContext(sampleRate ? { sampleRate } : {});
    await this.#context.audioWorklet.addModule(new URL("capture-worklet.js", import.meta.url));
    this.#worklet = new AudioWorkletNode(this.#context, "capture", { outputChannelCount: [1] });
    const [type, encoding] = (opus && recording()) || [];
    if (type) {
      this.#recorder = new MediaRecorder(this.#tracks, { mimeType: type, audioBitsPerSecond: 32_000 });
      this.settings = { encoding };
    } else {
      this.settings = { encoding: "pcm_s16le", sample_rate: this.#context.sampleRate, channels: 1 };
    }
  }

  async start() {
    this.#worklet.port.onmessage = ({ data }) => {
      this.onlevel(data.level);
      if (!this.#recorder && data.samples.length) this.onaudio(data.samples.buffer);
    };
    this.#context.createMediaStreamSource(this.#tracks).connect(this.#worklet);
    // What nobody listens to is not computed; the worklet's output is silence.
    this.#worklet.connect(this.#context.destination);
    if (this.#recorder) {
      this.#recorder.ondataavailable = ({ data }) => {
        this.#told = this.#told.then(async () => this.onaudio(await data.arrayBuffer()));
      };
      this.#recorder.start(RECORDER_SLICE);
    }
    await this.#context.resume();
  }

  /** Delivers what was heard until now, and lets go of the device. */
  stop() {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop() {
    if (this.#recorder && this.#recorder.state !== "inactive") {
      await new Promise((resolve) => {
        this.#recorder.onstop = resolve;
        this.#recorder.stop();
      });
      await this.#told;
    }
    if (this.#worklet && this.#context.state === "running") {
      await new Promise((resolve) => {
        const told = this.#worklet.port.onmessage;
        this.#worklet.port.onmessage = (event) => {
          told?.(event);
          if (event.data.last) resolve();
        };
        this.#worklet.port.postMessage("stop");
        setTimeout(resolve, 500); // The audio thread may have gone with the device.
      });
    }
    for (const track of this.#tracks?.getTracks() ?? []) track.stop();
    if (this.#context && this.#context.state !== "closed") await this.#context.close();
    this.onlevel(0);
  }
}
