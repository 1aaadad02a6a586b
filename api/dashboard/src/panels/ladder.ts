/** The depth ladder: best levels with size and cumulative bars, spread in the middle, validity over everything. */

import { addDecimals, type Book, compareDecimals, type Level, subtractDecimals } from "@tickstream/client";
import { byId, element, setData, setEmpty, setProperty, setText } from "../dom";
import { fittingFont, padded, places, reasonText } from "../format";
import type { Drawable } from "../frames";

/** Levels shown on each side where the window is high enough. */
export const LEVELS_MAX = 20;
const ROW_PX = 18;
const ROW_MAX_PX = 23;
const MIDDLE_PX = 40;
/** Padding and gaps between the columns. */
const MARGINS_PX = 40;

interface Row {
  root: HTMLElement;
  price: HTMLElement;
  size: HTMLElement;
  total: HTMLElement;
  depthBar: HTMLElement;
  sizeBar: HTMLElement;
}

function makeRow(): Row {
  const root = element("div", "level");
  const depthBar = element("i", "depth");
  const sizeBar = element("i", "size");
  const price = element("span", "price");
  const size = element("span", "size");
  const total = element("span", "total");
  root.append(depthBar, sizeBar, price, size, total);
  return { root, price, size, total, depthBar, sizeBar };
}

function scale(bar: HTMLElement, share: number): void {
  const transform = `scaleX(${share.toFixed(3)})`;
  if (bar.style.transform !== transform) bar.style.transform = transform;
}

interface Digits {
  price: number;
  size: number;
}

export class Ladder implements Drawable {
  private book: Book | null = null;
  private offline = false;
  private rows = 0;
  private width = 0;
  private columns: [number, number, number] = [8, 9, 9];
  private last = { text: "", side: "" };
  private readonly root = byId("ladder");
  private readonly badge = byId("ladder-validity");
  private readonly banner = byId("ladder-banner");
  private readonly empty = byId("ladder-empty");
  private readonly askSide = element("div", "levels asks");
  private readonly bidSide = element("div", "levels bids");
  private readonly lastPrice = element("b");
  private readonly spread = element("span");
  private readonly spreadValue = element("em");
  private readonly spreadShare = document.createTextNode("");
  private asks: Row[] = [];
  private bids: Row[] = [];

  constructor(private readonly changed: () => void) {
    const middle = element("div", "middle");
    this.spreadValue.dataset["testid"] = "spread";
    this.spread.append("spread ", this.spreadValue, this.spreadShare);
    middle.append(this.lastPrice, this.spread);
    this.root.append(this.askSide, middle, this.bidSide);
    new ResizeObserver(() => this.resize()).observe(this.root);
  }

  show(book: Book): void {
    this.book = book;
    this.columns = [8, 9, 9];
    this.last = { text: "", side: "" };
    this.changed();
  }

  setOffline(offline: boolean): void {
    this.offline = offline;
    this.changed();
  }

  setLast(price: string, side: string): void {
    this.last = { text: price, side };
    this.changed();
  }

  draw(): void {
    const { book } = this;
    if (!book) return;
    const bids = book.bids.slice(0, this.rows);
    const asks = book.asks.slice(0, this.rows);
    const hasLevels = bids.length + asks.length > 0;
    this.drawValidity(book, hasLevels);
    const shown = [...bids, ...asks];
    const digits = {
      price: shown.reduce((most, [price]) => Math.max(most, places(price)), 0),
      size: shown.reduce((most, [, size]) => Math.max(most, places(size)), 0),
    };
    const sizeMax = shown.reduce((most, [, size]) => Math.max(most, Number(size)), 0);
    const totals = [cumulative(bids), cumulative(asks)] as const;
    const totalMax = Math.max(...totals.map((side) => Number(side[side.length - 1] ?? 0)));
    this.drawSide(this.bids, bids, totals[0], digits, sizeMax, totalMax);
    this.drawSide(this.asks, asks, totals[1], digits, sizeMax, totalMax);
    this.drawMiddle(bids[0], asks[0]);
    this.fit([...this.bids, ...this.asks]);
  }

  /** Columns as wide as their digits; they only grow, so that nothing jumps. */
  private fit(rows: readonly Row[]): void {
    for (const row of rows) {
      this.columns[0] = Math.max(this.columns[0], row.price.textContent!.length);
      this.columns[1] = Math.max(this.columns[1], row.size.textContent!.length);
      this.columns[2] = Math.max(this.columns[2], row.total.textContent!.length);
    }
    const sum = this.columns[0] + this.columns[1] + this.columns[2];
    const panel = this.root.closest<HTMLElement>(".panel")!;
    setProperty(panel, "--columns", this.columns.map((digits) => `${digits}fr`).join(" "));
    setProperty(panel, "--digits", fittingFont(this.width - MARGINS_PX, sum));
  }

  private drawValidity(book: Book, hasLevels: boolean): void {
    const valid = book.valid && !this.offline;
    const reason = this.offline ? "offline" : book.reason;
    setText(this.badge, valid ? "VALID" : reason.toUpperCase() || "INVALID");
    setData(this.badge, "valid", String(valid));
    setData(this.root, "valid", String(valid));
    this.banner.hidden = valid || !hasLevels;
    setText(this.banner.firstElementChild!, `Do not trade on this book: ${reason || "invalid"}`);
    setText(this.banner.lastElementChild!, reasonText(reason));
    setEmpty(this.empty, hasLevels ? null : valid ? "The book is empty" : "No book yet",
      valid ? "The venue shows no orders in this symbol." : `${reasonText(reason)} The ladder fills with the next snapshot.`);
  }

  private drawSide(rows: Row[], levels: Level[], totals: string[], digits: Digits, sizeMax: number, totalMax: number): void {
    rows.forEach((row, index) => {
      const level = levels[index];
      const total = totals[index];
      setText(row.price, level ? padded(level[0], digits.price) : "");
      setText(row.size, level ? padded(level[1], digits.size) : "");
      setText(row.total, total ? padded(total, digits.size) : "");
      scale(row.sizeBar, level && sizeMax > 0 ? Number(level[1]) / sizeMax : 0);
      scale(row.depthBar, total && totalMax > 0 ? Number(total) / totalMax : 0);
    });
  }

  private drawMiddle(bid: Level | undefined, ask: Level | undefined): void {
    setText(this.lastPrice, this.last.text);
    this.lastPrice.className = this.last.side === "buy" ? "up" : this.last.side === "sell" ? "down" : "";
    if (!bid || !ask) {
      setText(this.spreadValue, "–");
      this.spreadShare.data = "";
      return;
    }
    setText(this.spreadValue, subtractDecimals(ask[0], bid[0]));
    const middle = (Number(bid[0]) + Number(ask[0])) / 2;
    const points = ((Number(ask[0]) - Number(bid[0])) / middle) * 10_000;
    const locked = compareDecimals(ask[0], bid[0]) === 0;
    this.spreadShare.data = locked ? "  locked" : `  ${points < 0.1 ? points.toPrecision(2) : points.toFixed(2)} bp`;
  }

  /** As many rows as fit; both sides the same. Asks are filled from the middle upwards. */
  private resize(): void {
    const sidePx = (this.root.clientHeight - MIDDLE_PX) / 2;
    const rows = Math.max(1, Math.min(LEVELS_MAX, Math.floor(sidePx / ROW_PX)));
    setProperty(this.root, "--row", `${Math.max(ROW_PX, Math.min(ROW_MAX_PX, Math.floor(sidePx / rows)))}px`);
    this.width = this.root.clientWidth;
    this.changed();
    if (rows === this.rows) return;
    this.rows = rows;
    this.bids = Array.from({ length: rows }, makeRow);
    this.asks = Array.from({ length: rows }, makeRow);
    this.bidSide.replaceChildren(...this.bids.map((row) => row.root));
    this.askSide.replaceChildren(...this.asks.map((row) => row.root).reverse());
  }
}

function cumulative(levels: readonly Level[]): string[] {
  let sum = "0";
  return levels.map(([, size]) => (sum = addDecimals(sum, size)));
}
