/** The last trades, newest first; trades of one sweep at one price are one line. */

import { addDecimals, type TradeData } from "@tickstream/client";

/** Lines that the tape keeps and shows. */
export const LINES_MAX = 150;

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
  private readonly seen = new Set<string>();

  clear(): void {
    this.lines = [];
    this.seen.clear();
  }

  /** Puts stored trades, in any order, under what came live meanwhile. */
  history(trades: readonly (TradeData & { timeMs: number })[]): void {
    const live = this.lines;
    const oldestMs = live[live.length - 1]?.timeMs ?? Infinity;
    const older = trades.filter((trade) => !this.seen.has(trade.trade_id) && trade.timeMs <= oldestMs);
    this.lines = [];
    for (const trade of older.sort((a, b) => a.timeMs - b.timeMs)) this.add(trade, trade.timeMs);
    this.lines = [...live, ...this.lines].slice(0, LINES_MAX);
  }

  /** Takes one trade, newer than or as new as the last; one that is already shown is ignored. */
  add(trade: TradeData, timeMs: number): void {
    if (this.seen.has(trade.trade_id)) return;
    this.seen.add(trade.trade_id);
    if (this.seen.size > 4 * LINES_MAX) this.seen.delete(this.seen.values().next().value!);
    const top = this.lines[0];
    if (top && top.price === trade.price && top.side === trade.side && top.timeMs === timeMs && top.liquidation === trade.liquidation) {
      top.size = addDecimals(top.size, trade.size);
      top.count += 1;
      return;
    }
    const { price, size, side, liquidation } = trade;
    this.lines.unshift({ key: trade.trade_id, timeMs, price, size, side, liquidation, count: 1 });
    if (this.lines.length > LINES_MAX) this.lines.length = LINES_MAX;
  }
}
