/** Why a candle is what it is: which trades counted and which did not, its revisions, and the venue's own candle. */

import type { Explanation } from "@tickstream/client";
import { byId, element, type Fact, setData, setEmpty, setFacts, setText } from "../dom";
import { clockTime, dateTime, parseTime } from "../format";
import type { Drawable } from "../frames";

/** Trades of each list that are shown in full. */
export const EXPLAINED_TRADES = 50;

const VERDICTS: Readonly<Record<Explanation["verdict"], string>> = {
  equal: "equal to its trades",
  different: "differs from its trades",
  open: "still open",
  from_history: "from the venue's history",
  not_stored: "not stored",
};

export class ExplainView implements Drawable {
  private explanation: Explanation | null = null;
  private problem: string | null = null;
  private loading: string | null = null;
  private stale = true;
  private readonly title = byId("explain-title");
  private readonly verdict = byId("explain-verdict");
  private readonly summary = byId("explain-summary");
  private readonly facts = byId("explain-facts");
  private readonly list = byId("explain-list");
  private readonly empty = byId("explain-empty");

  clear(): void {
    this.explanation = null;
    this.problem = null;
    this.loading = null;
    this.stale = true;
  }

  /** A candle is being explained. */
  asked(startMs: number): void {
    this.clear();
    this.loading = clockTime(startMs).slice(0, 5);
  }

  show(explanation: Explanation): void {
    this.clear();
    this.explanation = explanation;
  }

  failed(problem: string): void {
    this.clear();
    this.problem = problem;
  }

  /** Whether a candle is explained here, or why not. */
  get filled(): boolean {
    return this.explanation !== null || this.loading !== null;
  }

  draw(): void {
    const found = this.explanation;
    if (found) setEmpty(this.empty, null);
    else if (this.loading) setEmpty(this.empty, `Explaining the candle of ${this.loading}…`);
    else if (this.problem) setEmpty(this.empty, "This candle cannot be explained", this.problem);
    else setEmpty(this.empty, "Why is a candle what it is?", "Click a candle of the chart.");
    if (!found || !this.stale) return;
    this.stale = false;
    setText(this.title, `${dateTime(parseTime(found.start)).slice(0, 16)} · ${found.interval}`);
    setText(this.verdict, VERDICTS[found.verdict]);
    setData(this.verdict, "valid", found.verdict === "different" || found.verdict === "not_stored" ? "false" : "true");
    setText(this.summary, found.summary);
    setFacts(this.facts, this.values(found));
    this.list.replaceChildren(...this.lines(found));
  }

  private values(found: Explanation): Fact[] {
    const reasons = Object.entries(found.left_out.by_reason).map(([why, count]) => `${count} ${why}`).join(", ");
    const venue = found.venue_bar === null ? "not stored" : found.venue_differences.length === 0 ? "equal" : `${found.venue_differences.length} differences`;
    return [
      ["counted", String(found.counted.count), "Trades that made the candle"],
      ["left out", String(found.left_out.count), reasons, reasons],
      ["revisions", String(found.revisions.filter(({ revision }) => revision > 0).length), "Corrections after the candle closed"],
      ["gaps", String(found.gaps.length), "Entries of the ledger that overlap the candle"],
      ["venue's own", venue],
    ];
  }

  private lines(found: Explanation): HTMLElement[] {
    const line = (mark: string, name: string, text: string): HTMLElement => {
      const row = element("li", "reason");
      row.append(element("span", "faint", mark), element("b", "", name), element("span", "", text));
      row.title = `${name} ${text}`;
      return row;
    };
    const shown = (value: unknown): string => (value === null ? "–" : String(value));
    return [
      ...found.differences.map(({ field, stored, recomputed }) => line("≠", field, `stored ${shown(stored)}, its trades make ${shown(recomputed)}`)),
      ...found.venue_differences.map(({ field, ours, venue }) => line("venue", field, `ours ${shown(ours)}, the venue's ${shown(venue)}`)),
      ...found.revisions
        .filter(({ revision }) => revision > 0)
        .map(({ revision, changes, because, received }) =>
          line(`r${revision}`, clockTime(parseTime(received)), [...because, ...changes.map(({ field, before, after }) => `${field} ${shown(before)} → ${shown(after)}`)].join(" · ")),
        ),
      ...found.left_out.items.map(({ why, price, size, timestamp, detail }) => line(why, `${price} × ${size}`, `${clockTime(parseTime(timestamp), true)} ${detail}`)),
      ...found.counted.items
        .filter(({ has_price_of }) => has_price_of.length > 0)
        .map(({ price, size, timestamp, has_price_of }) => line(has_price_of.join(", "), `${price} × ${size}`, clockTime(parseTime(timestamp), true))),
    ];
  }
}
