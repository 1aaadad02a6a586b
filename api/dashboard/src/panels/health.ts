/** Feed health: per venue and symbol whether its data may be trusted, and how fresh it is. */

import type { Gap, SymbolStatus, VenueSummary } from "@tickstream/client";
import { byId, element, setData, setEmpty, setText } from "../dom";
import { age, reasonText } from "../format";
import type { Drawable } from "../frames";
import type { Choice } from "./picker";

/** Older than this and the age is marked; a live feed has a heartbeat each second. */
const OLD_MS = 5_000;

/** Looks at counts over this many polls, so that the rate is calm. */
const SAMPLES_MAX = 5;

/** Messages a second, from counts that only grow. */
class Rates {
  private readonly samples = new Map<string, { count: number; atMs: number }[]>();

  add(key: string, count: number, atMs: number): void {
    const known = this.samples.get(key) ?? [];
    const last = known[known.length - 1];
    if (last && count < last.count) known.length = 0; // the API was restarted
    known.push({ count, atMs });
    this.samples.set(key, known.slice(-SAMPLES_MAX));
  }

  of(key: string): string {
    const known = this.samples.get(key) ?? [];
    const first = known[0];
    const last = known[known.length - 1];
    if (!first || !last || first === last) return "–";
    const rate = ((last.count - first.count) * 1_000) / (last.atMs - first.atMs);
    return rate < 10 ? rate.toFixed(1) : String(Math.round(rate));
  }
}

interface Row {
  root: HTMLTableRowElement;
  state: HTMLElement;
  stateText: HTMLElement;
  age: HTMLElement;
  rate: HTMLElement;
  gaps: HTMLElement;
  line: HTMLElement;
}

export class HealthPanel implements Drawable {
  private feeds: readonly SymbolStatus[] = [];
  private counts: { symbols: number; valid: number } | null = null;
  private shownAtMs = 0;
  private readonly rates = new Rates();
  private openGaps: Map<string, number> | null = null;
  private selected = "";
  private problem: string | null = null;
  private readonly rows = new Map<string, Row>();
  private readonly root = byId("health");
  private readonly empty = byId("health-empty");
  private readonly summary = byId("health-summary");

  constructor(
    private readonly changed: () => void,
    private readonly chosen: (choice: Choice) => void,
  ) {
    this.root.addEventListener("keydown", (event) => this.key(event));
  }

  select({ venue, symbol }: Choice): void {
    this.selected = `${venue}:${symbol}`;
    this.changed();
  }

  show(feeds: readonly SymbolStatus[]): void {
    this.feeds = feeds.filter(({ timestamp }) => timestamp !== null);
    this.shownAtMs = performance.now();
    for (const { venue, symbol, messages } of this.feeds) this.rates.add(`${venue}:${symbol}`, messages, this.shownAtMs);
    this.problem = null;
    this.changed();
  }

  /** How many symbols there are and may be trusted, also those that the table does not list. */
  count(venues: readonly VenueSummary[]): void {
    this.counts = { symbols: 0, valid: 0 };
    for (const { symbols, valid } of venues) {
      this.counts.symbols += symbols;
      this.counts.valid += valid;
    }
    this.problem = null;
    this.changed();
  }

  /** The ledger's open gaps, or null when it cannot be read. */
  showGaps(gaps: readonly Gap[] | null): void {
    this.openGaps = gaps && new Map();
    for (const { venue, symbol } of gaps ?? []) {
      const key = `${venue}:${symbol}`;
      this.openGaps?.set(key, (this.openGaps.get(key) ?? 0) + 1);
    }
    this.changed();
  }

  /** The symbols that data came for. */
  alive(): readonly Choice[] {
    return this.feeds;
  }

  failed(problem: string): void {
    this.problem = problem;
    this.changed();
  }

  draw(): void {
    const { feeds, problem } = this;
    if (feeds.length) setEmpty(this.empty, null);
    else if (problem) setEmpty(this.empty, "The API does not answer", `${problem} Start the platform with \`make run\`.`);
    else setEmpty(this.empty, "No feeds yet", "A feed is listed once its producer has connected. Start the platform with `make run`.");
    const { symbols, valid } = this.counts ?? { symbols: feeds.length, valid: feeds.filter((feed) => feed.valid).length };
    setText(this.summary, symbols === 0 ? "" : problem ? "the API does not answer" : `${valid} of ${symbols} valid`);
    const wanted = new Set(feeds.map((feed) => `${feed.venue}:${feed.symbol}`));
    for (const [key, row] of this.rows) {
      if (wanted.has(key)) continue;
      row.root.remove();
      this.rows.delete(key);
    }
    const sinceMs = performance.now() - this.shownAtMs;
    for (const feed of feeds) this.fill(this.rows.get(`${feed.venue}:${feed.symbol}`) ?? this.makeRow(feed), feed, sinceMs);
  }

  private makeRow({ venue, symbol }: SymbolStatus): Row {
    const root = element("tr");
    root.tabIndex = 0;
    const feed = element("td", "feed");
    feed.append(element("b", "", symbol), " ", element("span", "", venue));
    const stateCell = element("td");
    const state = element("span", "state");
    const stateText = element("span");
    state.append(element("span", "dot"), stateText);
    stateCell.append(state);
    const row = {
      root, state, stateText,
      age: element("td", "number"), rate: element("td", "number"), gaps: element("td", "number"), line: element("td", "line"),
    };
    root.append(feed, stateCell, row.age, row.rate, row.gaps, row.line);
    root.addEventListener("click", () => this.chosen({ venue, symbol }));
    this.root.append(root);
    this.rows.set(`${venue}:${symbol}`, row);
    return row;
  }

  private fill(row: Row, feed: SymbolStatus, sinceMs: number): void {
    const known = this.problem === null;
    setData(row.state, "valid", known ? String(feed.valid) : "unknown");
    setText(row.stateText, !known ? "not known" : feed.valid ? "valid" : feed.reason || "invalid");
    row.state.title = !known ? "The API does not answer" : feed.valid ? "May be trusted" : reasonText(feed.reason);
    const old = feed.age_ms === null ? null : feed.age_ms + sinceMs;
    setText(row.age, old === null ? "never" : age(old));
    row.age.classList.toggle("old", old === null || old > OLD_MS);
    setText(row.rate, this.rates.of(`${feed.venue}:${feed.symbol}`));
    const gaps = this.openGaps && (this.openGaps.get(`${feed.venue}:${feed.symbol}`) ?? 0) + (this.openGaps.get(`${feed.venue}:*`) ?? 0);
    setText(row.gaps, gaps === null ? "–" : String(gaps));
    row.gaps.classList.toggle("old", gaps !== null && gaps > 0);
    setText(row.line, feed.line || "–");
    row.line.title = feed.line;
    const current = `${feed.venue}:${feed.symbol}` === this.selected;
    row.root.setAttribute("aria-current", String(current));
  }

  private key(event: KeyboardEvent): void {
    const row = (event.target as HTMLElement).closest("tr");
    if (!row) return;
    if (event.key === "Enter") row.click();
    else if (event.key === "ArrowDown") (row.nextElementSibling as HTMLElement | null)?.focus();
    else if (event.key === "ArrowUp") (row.previousElementSibling as HTMLElement | null)?.focus();
    else return;
    event.preventDefault();
  }
}
