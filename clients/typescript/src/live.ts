/**
 * One WebSocket to the API that keeps what was asked of it.
 *
 * Theory of operation. A *stream* is one request: channel, venue, symbol, and a depth, interval, recipe or kind; listeners
 * of the same stream share it. Candles of a recipe and of its interval are one stream of the server, and so is the only
 * kind of a symbol with and without its name: a message goes to both, and what one leaves, the other subscribes again.
 * 1. Opening the socket subscribes every stream. The server acknowledges with `subscribed`; what arrives for a stream
 *    before its acknowledgement belongs to an older subscription and is ignored. `not_ready` is asked again.
 * 2. Then comes the stream's state (`snapshot`), and every change. `sequence` counts by one, except that a snapshot or a
 *    `conflated` message, which replaces what was left out for a slow client, restarts it.
 * 3. Any other jump is a gap: the stream is subscribed again, which brings a new snapshot; listeners get `gap` and
 *    must not trust what they built until then.
 * 4. Anomalies and status of a whole connection come with the symbol `*`; every stream of their channel and venue hears
 *    them.
 * 5. The server pings silent clients. A socket on which nothing arrived for half of `silenceMs` is asked for a sign of
 *    life: by a WebSocket ping where the socket has one (the package `ws`), else, as browsers have none, by a message.
 *    A socket that stays silent, or closes, is opened again after a full-jitter exponential pause, and step 1 follows.
 */

import { CHANNEL_OF, type Channel, type Control, type Message } from "./types.js";

export interface Request {
  channel: Channel;
  symbol: string;
  venue: string;
  /** Only for `candles`, instead of `recipe`. */
  interval?: string;
  /** Only for `candles`: the name of a recipe. */
  recipe?: string;
  /** Only for `consolidated`: the kind of the instrument. */
  kind?: string;
  /** Only for `book`. */
  depth?: number;
}

export interface SequenceGap {
  expected: number;
  received: number;
}

export interface Listener {
  message(message: Message): void;
  /** Messages were missed; the stream is being subscribed again. */
  gap?(gap: SequenceGap): void;
  /** The server refused the subscription. */
  refused?(code: string, text: string): void;
}

export type ConnectionState =
  | { kind: "connecting"; attempt: number }
  | { kind: "open"; roundTripMs: number | null }
  | { kind: "waiting"; attempt: number; delayMs: number; reason: string }
  | { kind: "closed" };

/** The part of the standard `WebSocket` that is used, so that Node before 22 can bring its own. */
export interface Socket {
  readonly readyState: number;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  send(text: string): void;
  close(): void;
  /** Only in the package `ws`: a WebSocket ping, and the events of pings and their answers. */
  ping?(): void;
  on?(event: "ping" | "pong", listener: () => void): unknown;
}

export interface LiveOptions {
  url: string;
  webSocket: new (url: string) => Socket;
  /** A half-open connection is noticed within this time. */
  silenceMs: number;
  pauseFirstMs: number;
  pauseMaxMs: number;
}

const OPEN = 1;
const NOT_READY_PAUSE_MS = 1_000;
/** The symbol of what concerns a whole connection. */
const ALL_SYMBOLS = "*";
/** The venue of what is about all venues. */
export const ALL_VENUES = "*";

interface Stream {
  request: Request;
  listeners: Set<Listener>;
  /** Id of the subscribe request that must be acknowledged first; null once it was. */
  awaiting: number | null;
  last: number | null;
}

function keyOf({ channel, venue, symbol, ...variant }: Request): string {
  const { interval, recipe, depth, kind } = variant;
  return `${channel}|${venue}|${symbol}|${recipe === undefined ? "" : `recipe ${recipe}`}${interval ?? depth ?? kind ?? ""}`;
}

/** The streams that a message may belong to. */
function keysOfMessage(message: Message): string[] {
  const { venue, symbol } = message;
  const about = { channel: CHANNEL_OF[message.type], venue, symbol };
  if (message.type === "candle") {
    const { interval, recipe } = message.data;
    return [keyOf({ ...about, interval }), ...(recipe === undefined ? [] : [keyOf({ ...about, recipe })])];
  }
  if (message.type === "consolidated") return [keyOf(about), keyOf({ ...about, kind: message.data.kind })];
  return [keyOf(message.depth === undefined ? about : { ...about, depth: message.depth })];
}

/** Whether two streams with different keys may be one of the server. */
function mayBeOne(one: Request, other: Request): boolean {
  return one.channel === other.channel && one.venue === other.venue && one.symbol === other.symbol
    && ((one.recipe === undefined) !== (other.recipe === undefined) || (one.kind === undefined) !== (other.kind === undefined));
}

/** Whether a message is the next of its stream, or restarts the count. */
function follows(message: Message, last: number | null): boolean {
  return last === null || message.snapshot === true || message.conflated === true || message.type === "l2_snapshot"
    || message.sequence === last + 1;
}

export class Live {
  state: ConnectionState = { kind: "closed" };
  /** Messages received since the start, of every kind. */
  received = 0;
  private socket: Socket | null = null;
  private readonly streams = new Map<string, Stream>();
  /** The last sequence of each channel of a venue for the symbol `*`. */
  private readonly wideLast = new Map<string, number>();
  private readonly stateListeners = new Set<(state: ConnectionState) => void>();
  private attempt = 0;
  private nextId = 1;
  private lastReceivedMs = 0;
  /** The last request and when it was sent. */
  private asked = { id: 0, atMs: 0 };
  private watchTimer: ReturnType<typeof setInterval> | undefined;
  private pauseTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly options: LiveOptions) {}

  onState(listener: (state: ConnectionState) => void): () => void {
    this.stateListeners.add(listener);
    listener(this.state);
    return () => this.stateListeners.delete(listener);
  }

  /** Starts listening and returns the function that stops it. The socket opens with the first subscription. */
  subscribe(request: Request, listener: Listener): () => void {
    const key = keyOf(request);
    let stream = this.streams.get(key);
    if (!stream) {
      stream = { request, listeners: new Set(), awaiting: null, last: null };
      this.streams.set(key, stream);
    }
    const joined = stream;
    joined.listeners.add(listener);
    if (this.state.kind === "closed") this.connect();
    else if (this.socket?.readyState === OPEN) this.ask(joined); // who joins later needs the state too
    return () => {
      joined.listeners.delete(listener);
      if (joined.listeners.size > 0 || this.streams.get(key) !== joined) return;
      this.streams.delete(key);
      this.leave(joined);
    };
  }

  /** Ends everything: the socket, its timers and all subscriptions. */
  close(): void {
    this.streams.clear();
    this.drop();
    clearTimeout(this.pauseTimer);
    this.become({ kind: "closed" });
  }

  /** Opens at once instead of waiting for the pause to end. */
  retryNow(): void {
    if (this.state.kind !== "waiting") return;
    clearTimeout(this.pauseTimer);
    this.connect();
  }

  private connect(): void {
    this.attempt += 1;
    this.become({ kind: "connecting", attempt: this.attempt });
    const socket = new this.options.webSocket(this.options.url);
    this.socket = socket;
    this.lastReceivedMs = Date.now();
    socket.onopen = () => this.opened(socket);
    socket.onmessage = (event: { data: unknown }) => this.arrived(socket, event.data);
    socket.onclose = (event: { code?: number; reason?: string }) => {
      if (this.socket === socket) this.pause(event.reason || `socket closed (${event.code ?? "no code"})`);
    };
    for (const event of ["ping", "pong"] as const) socket.on?.(event, () => { this.lastReceivedMs = Date.now(); });
    this.watchTimer = setInterval(() => this.watch(), this.options.silenceMs / 4);
  }

  private opened(socket: Socket): void {
    if (this.socket !== socket) return;
    this.become({ kind: "open", roundTripMs: null });
    this.wideLast.clear();
    for (const stream of this.streams.values()) this.ask(stream);
  }

  private pause(reason: string): void {
    this.drop();
    const ceiling = Math.min(this.options.pauseMaxMs, this.options.pauseFirstMs * 2 ** Math.min(this.attempt, 16));
    const delayMs = Math.random() * ceiling;
    this.become({ kind: "waiting", attempt: this.attempt, delayMs, reason });
    this.pauseTimer = setTimeout(() => this.connect(), delayMs);
  }

  /** Forgets the socket; whatever it still delivers is ignored. */
  private drop(): void {
    clearInterval(this.watchTimer);
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  /** Runs four times in `silenceMs`. */
  private watch(): void {
    const silentMs = Date.now() - this.lastReceivedMs;
    const { socket, options: { silenceMs } } = this;
    if (silentMs >= silenceMs * 3 / 4) {
      this.pause(`nothing received for ${Math.round(silentMs / 1000)} s`);
    } else if (silentMs >= silenceMs / 2 && socket?.readyState === OPEN) {
      if (socket.ping) socket.ping();
      else socket.send(JSON.stringify({ op: "ping", id: this.nextId++ }));
    }
  }

  private ask(stream: Stream): void {
    const id = this.nextId++;
    stream.awaiting = id;
    stream.last = null;
    this.asked = { id, atMs: performance.now() };
    this.say("subscribe", id, stream.request);
  }

  private leave(stream: Stream): void {
    if (this.socket?.readyState !== OPEN) return;
    this.say("unsubscribe", this.nextId++, stream.request);
    for (const other of this.streams.values()) {
      if (other !== stream && mayBeOne(stream.request, other.request)) this.ask(other);
    }
  }

  private say(op: "subscribe" | "unsubscribe", id: number, request: Request): void {
    const { channel, symbol, ...rest } = request;
    this.socket?.send(JSON.stringify({ op, id, channels: [channel], symbols: [symbol], ...rest }));
  }

  private arrived(socket: Socket, data: unknown): void {
    if (this.socket !== socket || typeof data !== "string") return;
    this.lastReceivedMs = Date.now();
    this.received += 1;
    const message = JSON.parse(data) as Message | Control;
    if (message.type in CHANNEL_OF) this.deliver(message as Message);
    else this.control(message as Control);
  }

  private control(message: Control): void {
    const { id } = message;
    if (message.type === "subscribed") {
      this.attempt = 0; // only a connection that answers counts as a success
      if (id === this.asked.id) this.become({ kind: "open", roundTripMs: performance.now() - this.asked.atMs });
    }
    for (const stream of this.streams.values()) {
      if (id === undefined || stream.awaiting !== id) continue;
      if (message.type === "subscribed") stream.awaiting = null;
      if (message.type === "error") this.refused(stream, message.code, message.message);
    }
  }

  private refused(stream: Stream, code: string, text: string): void {
    if (code !== "not_ready") {
      for (const listener of stream.listeners) listener.refused?.(code, text);
      return;
    }
    const { socket } = this;
    setTimeout(() => {
      if (this.socket === socket && this.streams.get(keyOf(stream.request)) === stream) this.ask(stream);
    }, NOT_READY_PAUSE_MS);
  }

  private deliver(message: Message): void {
    if (message.symbol === ALL_SYMBOLS) {
      this.deliverWide(message);
      return;
    }
    for (const key of keysOfMessage(message)) this.deliverTo(this.streams.get(key), message);
  }

  private deliverTo(stream: Stream | undefined, message: Message): void {
    if (!stream || stream.awaiting !== null) return;
    if (!follows(message, stream.last)) {
      const gap = { expected: stream.last! + 1, received: message.sequence };
      for (const listener of stream.listeners) listener.gap?.(gap);
      this.leave(stream);
      this.ask(stream);
      return;
    }
    stream.last = message.sequence;
    for (const listener of stream.listeners) listener.message(message);
  }

  private deliverWide(message: Message): void {
    const channel = CHANNEL_OF[message.type];
    const key = `${channel}|${message.venue}`;
    const last = this.wideLast.get(key) ?? null;
    const gap = follows(message, last) ? null : { expected: last! + 1, received: message.sequence };
    this.wideLast.set(key, message.sequence);
    for (const { request, listeners } of this.streams.values()) {
      if (request.channel !== channel || request.venue !== message.venue) continue;
      for (const listener of listeners) {
        if (gap) listener.gap?.(gap);
        listener.message(message);
      }
    }
  }

  private become(state: ConnectionState): void {
    this.state = state;
    for (const listener of this.stateListeners) listener(state);
  }
}
