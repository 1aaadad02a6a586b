/** Metrics of the book: spread, microprice, imbalance, depth by distance, and order flow. */

import type { MetricsData } from "@tickstream/client";
import { byId, element, type Fact, setEmpty, setFacts, setProperty } from "../dom";
import { clockTime, parseTime, reasonText, rounded } from "../format";
import type { Drawable } from "../frames";
import type { Market } from "../market";

export class MetricsView implements Drawable {
  private market: Market | null = null;
  private readonly facts = byId("metrics-facts");
  private readonly depths = byId("metrics-depths");
  private readonly empty = byId("metrics-empty");

  show(market: Market): void {
    this.market = market;
  }

  draw(): void {
    const found = this.market?.metrics ?? null;
    if (found) setEmpty(this.empty, null);
    else setEmpty(this.empty, "No metrics yet", "They are computed once a second from a valid book.");
    if (!found) return;
    const { data, valid, reason, timestamp } = found;
    const facts: Fact[] = valid ? this.values(data) : [["not valid", reason, reasonText(reason)]];
    setFacts(this.facts, [...facts, ["at", clockTime(parseTime(timestamp)), `${data.start} to ${timestamp}`]]);
    this.drawDepths(data);
  }

  private values(data: MetricsData): Fact[] {
    return [
      ["spread", data.spread ?? "–", data.spread_bps === null ? "" : `${data.spread_bps} bp`, data.spread_bps === null ? "" : `${rounded(data.spread_bps, 3)} bp`],
      ["mid", data.mid ?? "–"],
      ["microprice", data.microprice === null ? "–" : rounded(data.microprice, 9), data.microprice ?? ""],
      ["imbalance", data.imbalance === null ? "–" : rounded(data.imbalance, 3), `(bid size − ask size) / (bid size + ask size) = ${data.imbalance}`],
      ["order flow", data.order_flow ?? "–", "Order flow imbalance of the interval: above zero where buyers gained"],
      ["changes", String(data.changes), "Levels set or removed in the interval", `best ${data.best_price_changes}`],
    ];
  }

  /** Sizes within each distance of mid, bids to the left; bars share one scale. */
  private drawDepths({ depth_bps, bid_depths, ask_depths }: MetricsData): void {
    const largest = Math.max(...[...bid_depths, ...ask_depths].map(Number), 0) || 1;
    this.depths.replaceChildren(
      ...depth_bps.map((bps, index) => {
        const row = element("tr");
        const bid = element("td", "number bid", rounded(bid_depths[index] ?? "", 5));
        const ask = element("td", "number ask", rounded(ask_depths[index] ?? "", 5));
        bid.title = bid_depths[index] ?? "";
        ask.title = ask_depths[index] ?? "";
        setProperty(bid, "--share", `${(100 * Number(bid_depths[index] ?? 0)) / largest}%`);
        setProperty(ask, "--share", `${(100 * Number(ask_depths[index] ?? 0)) / largest}%`);
        row.append(bid, element("td", "bps", `±${bps} bp`), ask);
        return row;
      }),
    );
  }
}
