/** The best bid and offer over all venues, and each venue's own with its validity. */

import type { ConsolidatedData, ConsolidatedVenue } from "@tickstream/client";
import { byId, element, setData, setEmpty, setText } from "../dom";
import { age, reasonText } from "../format";
import type { Drawable } from "../frames";
import type { Market } from "../market";

const STATES: Readonly<Record<ConsolidatedData["state"], string>> = {
  normal: "",
  locked: "locked: the best bid equals the best ask",
  crossed: "crossed: one venue bids more than another asks",
  one_sided: "one side only",
  unknown: "no venue is valid now",
};

interface Row {
  root: HTMLTableRowElement;
  cells: HTMLElement[];
  state: HTMLElement;
  stateText: HTMLElement;
}

export class VenuesView implements Drawable {
  private market: Market | null = null;
  private readonly rows = new Map<string, Row>();
  private readonly root = byId("venues");
  private readonly best = byId("venues-best");
  private readonly empty = byId("venues-empty");

  show(market: Market): void {
    this.market = market;
    this.rows.clear();
    this.root.replaceChildren();
  }

  draw(): void {
    const found = this.market?.consolidated ?? null;
    const { data } = found ?? {};
    if (data) setEmpty(this.empty, null);
    else if (this.market?.consolidatedRefused) setEmpty(this.empty, "No consolidated prices", this.market.consolidatedRefused);
    else setEmpty(this.empty, "No prices yet", "The best bid and offer over all venues is shown here.");
    if (!data) return;
    this.drawBest(data);
    const wanted = new Set(data.venues.map(({ venue, symbol }) => `${venue}:${symbol}`));
    for (const [key, row] of this.rows) {
      if (wanted.has(key)) continue;
      row.root.remove();
      this.rows.delete(key);
    }
    const sinceMs = performance.now() - found!.receivedMs;
    for (const venue of data.venues) this.fill(this.rows.get(`${venue.venue}:${venue.symbol}`) ?? this.makeRow(venue), venue, data, sinceMs);
  }

  private drawBest({ bid, ask, mid, spread, state, left_out }: ConsolidatedData): void {
    const parts: [string, string, string][] = [
      ["bid", bid?.price ?? "–", bid?.venues.join(", ") ?? ""],
      ["ask", ask?.price ?? "–", ask?.venues.join(", ") ?? ""],
      ["spread", spread ?? "–", mid === null ? "" : `mid ${mid}`],
    ];
    const notes = [STATES[state], left_out.length ? `left out: ${left_out.join(", ")}` : ""].filter(Boolean).join(" · ");
    this.best.replaceChildren(
      ...parts.map(([name, value, note]) => {
        const part = element("span", name);
        part.append(element("i", "", name), element("b", "", value), element("small", "", note));
        return part;
      }),
      ...(notes ? [element("em", "", notes)] : []),
    );
  }

  private makeRow({ venue, symbol }: ConsolidatedVenue): Row {
    const root = element("tr");
    const name = element("td", "feed");
    const state = element("span", "state");
    const stateText = element("span");
    state.append(element("span", "dot"), element("b", "", venue), stateText);
    name.append(state, ...(symbol === this.market?.id.symbol ? [] : [" ", element("span", "", symbol)]));
    const cells = [element("td", "number"), element("td", "number faint"), element("td", "number"), element("td", "number faint"), element("td", "number")];
    root.append(name, ...cells);
    this.root.append(root);
    const row = { root, cells, state, stateText };
    this.rows.set(`${venue}:${symbol}`, row);
    return row;
  }

  private fill(row: Row, venue: ConsolidatedVenue, { bid, ask }: ConsolidatedData, sinceMs: number): void {
    const [bidCell, bidSize, askCell, askSize, ageCell] = row.cells;
    setText(bidCell!, venue.bid ?? "–");
    setText(bidSize!, venue.bid_size ?? "");
    setText(askCell!, venue.ask ?? "–");
    setText(askSize!, venue.ask_size ?? "");
    setText(ageCell!, venue.age_ms === null ? "never" : age(venue.age_ms + sinceMs));
    bidCell!.classList.toggle("up", venue.valid && (bid?.venues.includes(venue.venue) ?? false));
    askCell!.classList.toggle("down", venue.valid && (ask?.venues.includes(venue.venue) ?? false));
    setData(row.state, "valid", String(venue.valid));
    setText(row.stateText, venue.valid ? "" : venue.reason || "invalid");
    row.state.title = venue.valid ? "Counts in the best bid and offer" : `Left out. ${reasonText(venue.reason)}`;
    row.root.classList.toggle("out", !venue.valid);
  }
}
