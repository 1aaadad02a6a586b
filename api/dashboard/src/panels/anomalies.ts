/** What the platform noticed, newest first, with the evidence on hover or focus. */

import type { AnomalyData } from "@tickstream/client";
import { byId, element, setEmpty, setText } from "../dom";
import { clockTime, dateTime, places } from "../format";
import type { Drawable } from "../frames";
import type { Tooltip } from "./tooltip";

/** Bounds memory and the list. */
export const ANOMALIES_MAX = 200;

export interface AnomalyItem extends AnomalyData {
  venue: string;
  symbol: string;
  timeMs: number;
}

const MARKS: Readonly<Record<string, string>> = { info: "i", warning: "!", critical: "‼" };

/** At most four places in the list; the tooltip has every digit. */
function short(value: string): string {
  return places(value) > 4 ? Number(value).toPrecision(6).replace(/\.?0+$/, "") : value;
}

export class AnomaliesPanel implements Drawable {
  private items: AnomalyItem[] = [];
  private selected = "";
  private problem: string | null = null;
  private readonly rows = new Map<string, HTMLElement>();
  private readonly root = byId("anomalies");
  private readonly empty = byId("anomalies-empty");
  private readonly all = byId<HTMLInputElement>("anomalies-all");

  constructor(
    private readonly changed: () => void,
    private readonly tooltip: Tooltip,
  ) {
    this.all.addEventListener("change", () => this.changed());
  }

  /** The symbol that the list narrows to when asked. */
  select(venue: string, symbol: string): void {
    this.selected = `${venue}:${symbol}`;
    this.changed();
  }

  settled(problem: string | null): void {
    this.problem = problem;
    this.changed();
  }

  add(items: readonly AnomalyItem[]): void {
    const known = new Map(this.items.map((item) => [item.anomaly_id, item]));
    for (const item of items) known.set(item.anomaly_id, item);
    this.items = [...known.values()].sort((a, b) => b.timeMs - a.timeMs).slice(0, ANOMALIES_MAX);
    this.changed();
  }

  draw(): void {
    const shown = this.all.checked ? this.items : this.items.filter((item) => `${item.venue}:${item.symbol}` === this.selected);
    if (this.problem && shown.length === 0) setEmpty(this.empty, "Anomalies could not be loaded", this.problem);
    else setEmpty(this.empty, shown.length ? null : "Nothing unusual", "Crossed or stale books, gaps, price jumps, wide spreads and volume spikes are listed here.");
    const wanted = new Map(shown.map((item) => [item.anomaly_id, item]));
    for (const [id, row] of this.rows) {
      if (wanted.has(id)) continue;
      row.remove();
      this.rows.delete(id);
    }
    let next: ChildNode | null = this.root.firstChild;
    for (const [id, item] of wanted) {
      let row = this.rows.get(id);
      if (row && row === next) {
        next = next.nextSibling;
        continue;
      }
      row ??= this.makeRow(id, item);
      this.root.insertBefore(row, next);
    }
  }

  private makeRow(id: string, item: AnomalyItem): HTMLElement {
    const row = element("li", "anomaly");
    row.tabIndex = 0;
    const severity = element("span", "severity", MARKS[item.severity] ?? "•");
    severity.dataset["severity"] = item.severity;
    severity.setAttribute("aria-label", item.severity);
    const time = element("time", "", clockTime(item.timeMs));
    const measure = element("span", "measure");
    measure.append(element("b", "", short(item.value)), ` › ${short(item.limit)}`);
    row.append(severity, time, element("span", "symbol", item.symbol), element("span", "kind", item.kind.replaceAll("_", " ")));
    row.append(element("span", "metric", item.metric.replaceAll("_", " ")), measure);
    this.tooltip.attach(row, () => this.evidence(item));
    this.rows.set(id, row);
    return row;
  }

  private evidence(item: AnomalyItem): HTMLElement[] {
    const title = element("strong");
    setText(title, `${item.severity}: ${item.metric} ${item.value}, limit ${item.limit}`);
    const list = element("dl");
    const facts: [string, string][] = [
      ["feed", `${item.venue}:${item.symbol}`],
      ["time", `${dateTime(item.timeMs)} UTC`],
      ...Object.entries(item.evidence),
    ];
    for (const [name, value] of facts) list.append(element("dt", "", name), element("dd", "", value));
    return [title, list];
  }
}
