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
  /** The venue's own codes. */
  conditions: readonly string[];
  /** Whether it sets no price of a candle. */
  unpriced: boolean;
  count: number;
}

export class Tape {
  /** Newest first. */
  lines: Line[] = [];
  /** By id, oldest first. */
  private trades = new Map<string, TimedTrade>();
  private newestMs = -Infinity;

  /** Takes trades in any order; one that is known is ignored. What was corrected or canceled is shown so no more. */
  add(trades: readonly TimedTrade[]): void {
    const fresh = trades
      .filter((trade) => !trade.action && !this.trades.has(trade.trade_id))
      .sort((a, b) => a.timeMs - b.timeMs);
    const first = fresh[0];
    if (first && first.timeMs < this.newestMs) {
      this.rebuild([...this.trades.values(), ...fresh]);
    } else {
      for (const trade of fresh) this.append(trade);
    }
    if (trades.filter((trade) => this.amend(trade)).length) this.rebuild([...this.trades.values()]);
  }

  /** Puts a correction in the place of its trade, or nothing; returns whether that changes what is shown. */
  private amend(trade: TimedTrade): boolean {
    const known = trade.action && this.trades.get(trade.original_id || trade.trade_id);
    if (!known) return false;
    this.trades.delete(known.trade_id);
    if (trade.action === "correct") {
      const side = trade.side === "unknown" ? known.side : trade.side;
      this.trades.set(trade.trade_id, { ...trade, timeMs: known.timeMs, side });
    }
    return true;
  }

  private rebuild(trades: readonly TimedTrade[]): void {
    this.trades.clear();
    this.lines = [];
    for (const trade of [...trades].sort((a, b) => a.timeMs - b.timeMs).slice(-TRADES_MAX)) this.append(trade);
  }

  private append(trade: TimedTrade): void {
    this.trades.set(trade.trade_id, trade);
    if (this.trades.size > TRADES_MAX) this.trades.delete(this.trades.keys().next().value!);
    const { trade_id, timeMs, price, size, side, liquidation, conditions = [], excluded_from = [] } = trade;
    const unpriced = excluded_from.includes("high_low") && excluded_from.includes("open_close");
    this.newestMs = timeMs;
    const top = this.lines[0];
    if (top && top.price === price && top.side === side && top.timeMs === timeMs && top.liquidation === liquidation
      && top.conditions.join() === conditions.join() && top.unpriced === unpriced) {
      top.size = addDecimals(top.size, size);
      top.count += 1;
      return;
    }
    this.lines.unshift({ key: trade_id, timeMs, price, size, side, liquidation, conditions, unpriced, count: 1 });
    if (this.lines.length > LINES_MAX) this.lines.length = LINES_MAX;
  }
}
