/** The tape: newest trade on top, coloured and marked by aggressor; holds still while paused or scrolled away. */

import { byId, element, setData, setEmpty, setProperty, setText } from "../dom";
import { clockTime, fittingFont, padded, places } from "../format";
import type { Drawable } from "../frames";
import type { Line, Tape } from "../tape";

/** Below this width the time goes without milliseconds; they stay in the line's title. */
const NARROW_PX = 260;
/** Padding and gaps between the columns. */
const MARGINS_PX = 40;
/** Room for the conditions beside the time. */
const CONDITIONS_PX = 44;

/** The code of a regular sale, which says nothing. */
const REGULAR = "@";

/** `INSURANCE_FUND` as `IF`: the line's title has the whole code. */
function shortened(code: string): string {
  return code.length <= 4 ? code : code.split("_").map((word) => word[0]).join("");
}

export class TradesPanel implements Drawable {
  private tape: Tape | null = null;
  private paused = false;
  private readonly rows = new Map<string, HTMLElement>();
  private digits = { price: 0, size: 0 };
  private columns: [number, number] = [10, 9];
  private width = 0;
  private conditions = false;
  private readonly root = byId("tape");
  private readonly empty = byId("tape-empty");
  private readonly button = byId<HTMLButtonElement>("tape-pause");

  constructor(private readonly changed: () => void) {
    this.button.addEventListener("click", () => this.togglePause());
    this.root.addEventListener("scroll", () => this.changed());
    new ResizeObserver(() => {
      this.width = this.root.clientWidth;
      this.rows.clear();
      this.root.replaceChildren();
      this.changed();
    }).observe(this.root);
  }

  show(tape: Tape): void {
    this.tape = tape;
    this.rows.clear();
    this.root.replaceChildren();
    this.root.scrollTop = 0;
    this.digits = { price: 0, size: 0 };
    this.columns = [10, 9];
    this.conditions = false;
    this.changed();
  }

  togglePause(): void {
    this.paused = !this.paused;
    this.button.setAttribute("aria-pressed", String(this.paused));
    setText(this.button, this.paused ? "Paused" : "Pause");
    this.changed();
  }

  draw(): void {
    const lines = this.tape?.lines ?? [];
    setEmpty(this.empty, lines.length ? null : "No trades yet", "They appear here with the next execution. If the feed is valid, the market is just quiet.");
    const scrolledAway = this.root.scrollTop > 0;
    if (this.paused || (scrolledAway && this.rows.size > 0)) return;
    this.align(lines);
    const averageSize = lines.reduce((sum, line) => sum + Number(line.size), 0) / (lines.length || 1);
    const wanted = new Set(lines.map((line) => line.key));
    for (const [key, row] of this.rows) {
      if (wanted.has(key)) continue;
      row.remove();
      this.rows.delete(key);
    }
    let next: ChildNode | null = this.root.firstChild;
    for (const line of lines) {
      let row = this.rows.get(line.key);
      if (row && row === next) {
        next = next.nextSibling;
      } else {
        row ??= this.makeRow(line);
        this.root.insertBefore(row, next);
      }
      this.fill(row, line, averageSize);
    }
  }

  private makeRow(line: Line): HTMLElement {
    const row = element("li", "trade");
    row.dataset["side"] = line.side;
    row.dataset["liquidation"] = String(line.liquidation);
    row.dataset["unpriced"] = String(line.unpriced);
    const time = element("span", "", clockTime(line.timeMs, !this.narrow));
    const codes = line.conditions.filter((code) => code !== REGULAR).map(shortened).join(" ");
    if (codes) time.append(" ", element("small", "conditions", codes));
    row.append(time, element("span", "price"), element("span", "size"));
    this.rows.set(line.key, row);
    return row;
  }

  private fill(row: HTMLElement, line: Line, averageSize: number): void {
    const [, price, size] = row.children;
    setText(price!, padded(line.price, this.digits.price));
    setText(size!, padded(line.size, this.digits.size));
    setData(row, "big", String(Number(line.size) > 4 * averageSize));
    const side = line.side === "buy" ? "Buyer was the aggressor" : line.side === "sell" ? "Seller was the aggressor" : "Aggressor not known";
    const joined = line.count > 1 ? ` · ${line.count} trades at one price and time` : "";
    const conditions = line.conditions.length ? ` · conditions ${line.conditions.join(", ")}` : "";
    const unpriced = line.unpriced ? " · sets no price of a candle" : "";
    const title = `${clockTime(line.timeMs, true)} · ${side}${joined}${line.liquidation ? " · liquidation" : ""}${conditions}${unpriced}`;
    if (row.title !== title) row.title = title;
  }

  private get narrow(): boolean {
    return this.width < NARROW_PX;
  }

  /** Columns as wide as their digits; they only grow, so that nothing jumps. */
  private align(lines: readonly Line[]): void {
    for (const line of lines) {
      this.digits.price = Math.max(this.digits.price, places(line.price));
      this.digits.size = Math.max(this.digits.size, places(line.size));
    }
    for (const line of lines) {
      this.columns[0] = Math.max(this.columns[0], padded(line.price, this.digits.price).length + 2);
      this.columns[1] = Math.max(this.columns[1], padded(line.size, this.digits.size).length);
    }
    this.conditions ||= lines.some(({ conditions }) => conditions.some((code) => code !== REGULAR));
    const timePx = (this.narrow ? 52 : 78) + (this.conditions ? CONDITIONS_PX : 0);
    const panel = this.root.closest<HTMLElement>(".panel")!;
    setProperty(panel, "--columns", `${timePx}px ${this.columns[0]}fr ${this.columns[1]}fr`);
    setProperty(panel, "--digits", fittingFont(this.width - timePx - MARGINS_PX, this.columns[0] + this.columns[1]));
  }
}
