/** An L2 book kept from a snapshot and numbered updates, best levels first. */

import { compareDecimals, isZero } from "./decimal.js";
import type { Level, Message } from "./types.js";

/** Levels in order, best first; `direction` is 1 where the lowest price is best (asks) and -1 for bids. */
class Side {
  levels: Level[] = [];

  constructor(private readonly direction: 1 | -1) {}

  replace(levels: readonly Level[]): void {
    this.levels = [];
    this.apply(levels);
  }

  apply(changes: readonly Level[]): void {
    for (const change of changes) {
      const at = this.find(change[0]);
      const found = at < this.levels.length && compareDecimals(this.levels[at]![0], change[0]) === 0;
      if (isZero(change[1])) {
        if (found) this.levels.splice(at, 1);
      } else {
        this.levels.splice(at, found ? 1 : 0, change);
      }
    }
  }

  /** The position of a price, or where it would stand. */
  private find(price: string): number {
    let low = 0;
    let high = this.levels.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.direction * compareDecimals(this.levels[middle]![0], price) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

export class Book {
  /** False until a snapshot came, after a gap, and whenever the platform says so; `reason` says why. */
  valid = false;
  reason = "waiting for a snapshot";
  timestamp = "";
  private ready = false;
  private readonly bidSide = new Side(-1);
  private readonly askSide = new Side(1);

  get bids(): readonly Level[] {
    return this.bidSide.levels;
  }

  get asks(): readonly Level[] {
    return this.askSide.levels;
  }

  /** Takes a snapshot or an update; an update before any snapshot changes nothing. */
  apply(message: Message<"l2_snapshot" | "l2_update">): void {
    const { bids, asks } = message.data;
    if (message.type === "l2_snapshot") {
      this.bidSide.replace(bids);
      this.askSide.replace(asks);
      this.ready = true;
    } else if (this.ready) {
      this.bidSide.apply(bids);
      this.askSide.apply(asks);
    } else {
      return;
    }
    this.valid = message.valid;
    this.reason = message.reason;
    this.timestamp = message.timestamp;
  }

  /** Keeps the levels to look at, but says that they may not be trusted until the next snapshot. */
  invalidate(reason: string): void {
    this.ready = false;
    this.valid = false;
    this.reason = reason;
  }
}
