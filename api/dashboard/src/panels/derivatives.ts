/** What the venue sends about a derivative: mark and index price, funding, open interest, greeks and liquidations. */

import type { DerivativeFields, LatestDerivative } from "@tickstream/client";
import { byId, element, type Fact, setEmpty, setFacts } from "../dom";
import { age, clockTime, parseTime, percent, rounded } from "../format";
import type { Drawable } from "../frames";
import type { Market } from "../market";

/** Liquidations shown; the API has all. */
const SHOWN_MAX = 30;

const NAMES: readonly [keyof DerivativeFields, string][] = [
  ["mark_price", "mark"], ["index_price", "index"], ["underlying_price", "underlying"], ["open_interest", "open interest"],
  ["open_interest_value", "in quote currency"], ["delta", "delta"], ["gamma", "gamma"], ["vega", "vega"], ["theta", "theta"],
  ["rho", "rho"],
];
const RATES: readonly [keyof DerivativeFields, string][] = [
  ["funding_rate", "funding"], ["predicted_funding_rate", "predicted"], ["mark_iv", "mark IV"], ["bid_iv", "bid IV"], ["ask_iv", "ask IV"],
];

export class DerivativesView implements Drawable {
  private market: Market | null = null;
  private readonly facts = byId("derivatives-facts");
  private readonly list = byId("liquidations");
  private readonly empty = byId("derivatives-empty");

  show(market: Market): void {
    this.market = market;
  }

  draw(): void {
    const found = this.market?.derivative ?? null;
    if (found) setEmpty(this.empty, null);
    else setEmpty(this.empty, "No derivative data", "Funding, mark and index price, open interest and liquidations of perpetuals, futures and options are shown here.");
    if (!found) return;
    setFacts(this.facts, [...(found.valid ? [] : [["not valid", found.reason] as Fact]), ...this.values(found.data)]);
    const liquidations = this.market!.liquidations.slice(0, SHOWN_MAX);
    this.list.replaceChildren(
      ...liquidations.map(({ timestamp, side, price, size }) => {
        const row = element("li", "trade");
        row.dataset["side"] = side;
        row.title = `Liquidation of a ${side === "sell" ? "long" : "short"} position, ${timestamp}`;
        row.append(element("span", "", clockTime(parseTime(timestamp))), element("span", "price", price), element("span", "size", size));
        return row;
      }),
    );
    byId("liquidations-head").hidden = liquidations.length === 0;
  }

  private values(data: LatestDerivative): Fact[] {
    const facts: Fact[] = [];
    const when = (name: string): string => (data.updated[name] ? `of ${data.updated[name]}` : "");
    const add = (name: keyof DerivativeFields, label: string, value: string, note = ""): void => {
      facts.push([label, value, `${data[name]} ${when(name)}`, note]);
    };
    for (const [name, label] of NAMES) {
      const value = data[name];
      if (value !== null) add(name, label, rounded(String(value), 9), name === "mark_price" ? this.basis(data) : "");
    }
    for (const [name, label] of RATES) {
      const value = data[name];
      const every = name === "funding_rate" && data.funding_interval !== null ? `each ${data.funding_interval / 3_600} h` : "";
      if (value !== null) add(name, label, percent(String(value)), every);
    }
    if (data.next_funding_time !== null) {
      const inMs = parseTime(data.next_funding_time) - Date.now();
      add("next_funding_time", "next funding", clockTime(parseTime(data.next_funding_time)), inMs > 0 ? `in ${age(inMs)}` : "");
    }
    return facts;
  }

  private basis({ mark_price, index_price }: LatestDerivative): string {
    if (mark_price === null || index_price === null || Number(index_price) === 0) return "";
    const bps = (Number(mark_price) / Number(index_price) - 1) * 10_000;
    return `${bps >= 0 ? "+" : "−"}${Math.abs(bps).toFixed(2)} bp to index`;
  }
}
