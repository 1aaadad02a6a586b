/** Feed health: per venue and symbol whether its data may be trusted, and how fresh it is. */

import type { FeedHealth } from "@tickstream/client";
import { byId, element, setData, setEmpty, setText } from "../dom";
import { age, parseTime, reasonText } from "../format";
import type { Drawable } from "../frames";
import type { Choice } from "./picker";

/** Older than this and the age is marked; a live feed has a heartbeat each second. */
const OLD_MS = 5_000;

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
  private feeds: readonly FeedHealth[] = [];
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

  show(feeds: readonly FeedHealth[]): void {
    this.feeds = feeds;
    this.problem = null;
    this.changed();
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
    const invalid = feeds.filter((feed) => !feed.valid).length;
    setText(this.summary, problem && feeds.length ? "not refreshed: the API does not answer" : feeds.length ? `${feeds.length - invalid} of ${feeds.length} valid` : "");
    const wanted = new Set(feeds.map((feed) => `${feed.venue}:${feed.symbol}`));
    for (const [key, row] of this.rows) {
      if (wanted.has(key)) continue;
      row.root.remove();
      this.rows.delete(key);
    }
    const now = Date.now();
    for (const feed of feeds) this.fill(this.rows.get(`${feed.venue}:${feed.symbol}`) ?? this.makeRow(feed), feed, now);
  }

  private makeRow({ venue, symbol }: FeedHealth): Row {
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

  private fill(row: Row, feed: FeedHealth, now: number): void {
    setData(row.state, "valid", String(feed.valid));
    setText(row.stateText, feed.valid ? "valid" : feed.reason || "invalid");
    row.state.title = feed.valid ? "May be trusted" : reasonText(feed.reason);
    const old = feed.last_update === null ? null : now - parseTime(feed.last_update);
    setText(row.age, old === null ? "never" : age(old));
    row.age.classList.toggle("old", old === null || old > OLD_MS);
    setText(row.rate, feed.messages_per_second === null ? "–" : String(feed.messages_per_second));
    setText(row.gaps, String(feed.gaps_open));
    row.gaps.classList.toggle("old", feed.gaps_open > 0);
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
