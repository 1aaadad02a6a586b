/** The tabs beside the candles: venues, metrics, derivatives, and why a candle is what it is; only the chosen one is drawn. */

import { byId } from "../dom";
import type { Drawable } from "../frames";

export const VIEWS = ["venues", "metrics", "derivatives", "explain"] as const;
export type ViewName = (typeof VIEWS)[number];

export class DetailsPanel implements Drawable {
  private chosen: ViewName = "venues";

  constructor(
    private readonly views: Readonly<Record<ViewName, Drawable>>,
    private readonly changed: () => void,
    private readonly opened: (view: ViewName) => void,
  ) {
    for (const view of VIEWS) byId(`tab-${view}`).addEventListener("click", () => this.open(view));
    byId("details-tabs").addEventListener("keydown", (event) => {
      const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
      if (step === 0) return;
      this.open(VIEWS[(VIEWS.indexOf(this.chosen) + step + VIEWS.length) % VIEWS.length]!);
      byId(`tab-${this.chosen}`).focus();
    });
  }

  get shown(): ViewName {
    return this.chosen;
  }

  open(chosen: ViewName): void {
    this.chosen = chosen;
    for (const view of VIEWS) {
      const tab = byId(`tab-${view}`);
      tab.ariaSelected = String(view === chosen);
      tab.tabIndex = view === chosen ? 0 : -1;
      byId(`view-${view}`).hidden = view !== chosen;
    }
    this.opened(chosen);
    this.changed();
  }

  draw(): void {
    this.views[this.chosen].draw();
  }
}
