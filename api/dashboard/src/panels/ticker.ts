/** The header's figures: last price and the venue's 24-hour statistics, in the venue's own digits. */

import { byId, setText } from "../dom";
import type { Drawable } from "../frames";
import type { Market } from "../market";

function signClass(change: string | null): string {
  if (!change || Number(change) === 0) return "";
  return change.startsWith("-") ? "down" : "up";
}

export class TickerPanel implements Drawable {
  private market: Market | null = null;
  private readonly last = byId("stat-last");
  private readonly change = byId("stat-change");
  private readonly high = byId("stat-high");
  private readonly low = byId("stat-low");
  private readonly volume = byId("stat-volume");

  show(market: Market): void {
    this.market = market;
  }

  draw(): void {
    const { ticker, last } = this.market ?? {};
    setText(this.last, last?.price ?? ticker?.last ?? "–");
    this.last.className = last?.side === "buy" ? "up" : last?.side === "sell" ? "down" : "";
    const change = ticker?.change_24h ?? null;
    const rounded = Number(change).toFixed(2);
    setText(this.change, change === null ? "–" : `${rounded.startsWith("-") ? "" : "+"}${rounded} %`);
    this.change.title = change === null ? "" : `${change} %`;
    this.change.className = signClass(change);
    setText(this.high, ticker?.high_24h ?? "–");
    setText(this.low, ticker?.low_24h ?? "–");
    setText(this.volume, ticker?.volume_24h ?? "–");
    this.volume.title = ticker?.volume_24h ?? "";
  }
}
