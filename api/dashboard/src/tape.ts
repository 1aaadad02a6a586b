/** The last trades, newest first; trades of one sweep at one price are one line. */

import { addDecimals, type TradeData } from "@tickstream/client";

/** Lines that the tape keeps and shows. */
export const LINES_MAX = 150;
/** Trades remembered to build the lines from, and to know again. */
const TRADES_MAX = 4 * LINES_MAX;

export interface TimedTrade extends TradeData {
  timeMs: number;
}

export interface Line {
  key: string;
  timeMs: number;
  price: string;
  /** The exact sum when several trades are joined. */
  size: string;
  side: TradeData["side"];
  liquidation: boolean;
  count: number;
}

export class Tape {
  /** Newest first. */
  lines: Line[] = [];
  /** By id, oldest first. */
  private trades = new Map<string, TimedTrade>();
  private newestMs = -Infinity;

  /** Takes trades in any order; one that is known is ignored. */
  add(trades: readonly TimedTrade[]): void {
    const fresh = trades.filter((trade) => !this.trades.has(trade.trade_id)).sort((a, b) => a.timeMs - b.timeMs);
    const first = fresh[0];
    if (!first) return;
    if (first.timeMs < this.newestMs) {
      this.rebuild([...this.trades.values(), ...fresh].sort((a, b) => a.timeMs - b.timeMs));
    } else {
      for (const trade of fresh) this.append(trade);
    }
  }

  private rebuild(trades: readonly TimedTrade[]): void {
    this.trades.clear();
    this.lines = [];
    for (const trade of trades.slice(-TRADES_MAX)) this.append(trade);
  }

  private append(trade: TimedTrade): void {
    this.trades.set(trade.trade_id, trade);
    if (this.trades.size > TRADES_MAX) this.trades.delete(this.trades.keys().next().value!);
    const { trade_id, timeMs, price, size, side, liquidation } = trade;
    this.newestMs = timeMs;
    const top = this.lines[0];
    if (top && top.price === price && top.side === side && top.timeMs === timeMs && top.liquidation === liquidation) {
      top.size = addDecimals(top.size, size);
      top.count += 1;
      return;
    }
    this.lines.unshift({ key: trade_id, timeMs, price, size, side, liquidation, count: 1 });
    if (this.lines.length > LINES_MAX) this.lines.length = LINES_MAX;
  }
}
