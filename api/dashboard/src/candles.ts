/** The candles of one symbol and interval, in order of time, merged from history and live messages. */

import type { CandleData, Interval } from "@tickstream/client";
import { parseTime } from "./format";

/** More than a chart can show, and a bound on memory. */
export const CANDLES_MAX = 5_000;

export const INTERVAL_MS: Readonly<Record<Interval, number>> = {
  "1m": 60_000,
  "5m": 300_000,
  "15m": 900_000,
  "1h": 3_600_000,
  "4h": 14_400_000,
  "1d": 86_400_000,
};

export interface Candle extends CandleData {
  timeMs: number;
  valid: boolean;
  reason: string;
}

const STATE_RANK = { open: 0, final: 1, revised: 2 } as const;

/** History must not undo what a live message already contained about the same candle. */
function supersedes(next: Candle, known: Candle, live: boolean): boolean {
  if (next.revision !== known.revision) return next.revision > known.revision;
  if (next.state !== known.state) return STATE_RANK[next.state] > STATE_RANK[known.state];
  return live;
}

export function candleOf(data: CandleData, valid: boolean, reason: string): Candle {
  return { ...data, timeMs: parseTime(data.start), valid, reason };
}

export class Candles {
  items: Candle[] = [];
  /** What changed since the last `taken`; null when everything may have. */
  private changed: Candle[] | null = null;

  get oldest(): Candle | undefined {
    return this.items[0];
  }

  get newest(): Candle | undefined {
    return this.items[this.items.length - 1];
  }

  clear(): void {
    this.items = [];
    this.changed = null;
  }

  /** The candle at a time, if there is one. */
  at(timeMs: number): Candle | undefined {
    const index = this.find(timeMs);
    const found = this.items[index];
    return found?.timeMs === timeMs ? found : undefined;
  }

  history(candles: readonly Candle[]): void {
    const merged = new Map(this.items.map((candle) => [candle.timeMs, candle]));
    for (const candle of candles) {
      const known = merged.get(candle.timeMs);
      if (!known || supersedes(candle, known, false)) merged.set(candle.timeMs, candle);
    }
    this.items = [...merged.values()].sort((a, b) => a.timeMs - b.timeMs).slice(-CANDLES_MAX);
    this.changed = null;
  }

  live(candle: Candle): void {
    const index = this.find(candle.timeMs);
    const known = this.items[index];
    if (known?.timeMs === candle.timeMs) {
      if (!supersedes(candle, known, true)) return;
      this.items[index] = candle;
    } else {
      this.items.splice(index, 0, candle);
      const excess = this.items.length > CANDLES_MAX;
      if (excess) this.items.shift();
      if (excess || index < this.items.length - 1) this.changed = null;
    }
    this.changed?.push(candle);
    if (this.changed && this.changed.length > 100) this.changed = null; // a hidden tab draws no frames
  }

  /** What to draw: the changed candles, oldest first, or null when all must be drawn again. */
  taken(): Candle[] | null {
    const changed = this.changed;
    this.changed = [];
    return changed && changed.sort((a, b) => a.timeMs - b.timeMs);
  }

  private find(timeMs: number): number {
    let index = this.items.length;
    while (index > 0 && this.items[index - 1]!.timeMs >= timeMs) index -= 1;
    return index;
  }
}
