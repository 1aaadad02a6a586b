/** What the platform noticed, newest first, one row each from start to end, with the evidence on hover or focus. */

import type { AnomalyData } from "@tickstream/client";
import { byId, element, setEmpty, setProperty, setText } from "../dom";
import { age, clockTime, dateTime, parseTime, places } from "../format";
import type { Drawable } from "../frames";
import type { Tooltip } from "./tooltip";

/** Bounds memory and the list. */
export const ANOMALIES_MAX = 200;

export interface AnomalyItem extends AnomalyData {
  venue: string;
  symbol: string;
}

interface Row {
  element: HTMLElement;
  item: AnomalyItem;
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
  private readonly rows = new Map<string, Row>();
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
    this.items = [...known.values()].sort((a, b) => parseTime(b.start) - parseTime(a.start)).slice(0, ANOMALIES_MAX);
    this.changed();
  }

  draw(): void {
    const shown = this.all.checked ? this.items : this.items.filter((item) => `${item.venue}:${item.symbol}` === this.selected);
    if (this.problem && shown.length === 0) setEmpty(this.empty, "Anomalies could not be loaded", this.problem);
    else setEmpty(this.empty, shown.length ? null : "Nothing unusual", "Crossed or stale books, gaps, silence, price jumps, wide spreads, floods of orders and liquidations are listed here.");
    const wanted = new Map(shown.map((item) => [item.anomaly_id, item]));
    for (const [id, row] of this.rows) {
      if (wanted.has(id)) continue;
      row.element.remove();
      this.rows.delete(id);
    }
    let next: ChildNode | null = this.root.firstChild;
    for (const [id, item] of wanted) {
      const row = this.rows.get(id) ?? this.makeRow(id, item);
      if (row.item !== item) this.fill(row, item);
      if (row.element === next) next = next.nextSibling;
      else this.root.insertBefore(row.element, next);
    }
  }

  private makeRow(id: string, item: AnomalyItem): Row {
    const row = { element: element("li", "anomaly"), item };
    row.element.tabIndex = 0;
    this.fill(row, item);
    this.tooltip.attach(row.element, () => this.evidence(row.item));
    this.rows.set(id, row);
    return row;
  }

  private fill(row: Row, item: AnomalyItem): void {
    row.item = item;
    row.element.dataset["phase"] = item.phase;
    const severity = element("span", "severity", MARKS[item.severity] ?? "•");
    severity.dataset["severity"] = item.severity;
    severity.setAttribute("aria-label", item.severity);
    const time = element("time", "", clockTime(parseTime(item.start)));
    const measure = element("span", "measure");
    measure.append(element("b", "", short(item.value)), element("span", "limit", ` › ${short(item.limit)}`));
    row.element.replaceChildren(
      severity,
      time,
      element("span", "symbol", item.symbol),
      element("span", "kind", item.kind.replaceAll("_", " ")),
      element("span", "metric", item.metric.replaceAll("_", " ")),
      measure,
      this.life(item),
    );
  }

  /** How long it lasted, over a line from its start to its end with a mark at its peak. */
  private life(item: AnomalyItem): HTMLElement {
    const startMs = parseTime(item.start);
    const endMs = item.end === null ? Math.max(Date.now(), startMs) : parseTime(item.end);
    const lasting = element("span", "lasting", item.end === null ? "open" : age(endMs - startMs));
    const times = [`start ${clockTime(startMs)}`];
    if (item.peak !== null) {
      const share = endMs > startMs ? (parseTime(item.peak) - startMs) / (endMs - startMs) : 0;
      setProperty(lasting, "--peak", `${Math.min(1, Math.max(0, share)) * 100}%`);
      times.push(`peak ${clockTime(parseTime(item.peak))}`);
    }
    times.push(item.end === null ? "still open" : `end ${clockTime(endMs)}`);
    lasting.setAttribute("aria-label", times.join(", "));
    return lasting;
  }

  private evidence(item: AnomalyItem): HTMLElement[] {
    const title = element("strong");
    setText(title, item.text || `${item.severity}: ${item.metric} ${item.value}, limit ${item.limit}`);
    const list = element("dl");
    const facts: [string, string][] = [
      ["feed", `${item.venue}:${item.symbol}`],
      ["start", `${dateTime(parseTime(item.start))} UTC`],
      ...(item.peak === null ? [] : [["peak", `${dateTime(parseTime(item.peak))} UTC`] as [string, string]]),
      ["end", item.end === null ? "still open" : `${dateTime(parseTime(item.end))} UTC`],
      ["value", item.value],
      ["limit", item.limit],
      ["usual", item.usual ?? "unknown"],
      ...Object.entries(item.evidence),
    ];
    for (const [name, value] of facts) list.append(element("dt", "", name), element("dd", "", value));
    return [title, list];
  }
}
