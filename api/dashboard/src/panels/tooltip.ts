/** One tooltip for the page: shown on hover and on keyboard focus, hidden by Escape. */

import { byId } from "../dom";

const GAP_PX = 8;

export class Tooltip {
  private readonly root = byId("tooltip");

  constructor() {
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.hide();
    });
    document.addEventListener("scroll", () => this.hide(), { capture: true, passive: true });
  }

  attach(target: HTMLElement, content: () => HTMLElement[]): void {
    const show = (): void => this.show(target, content());
    target.addEventListener("mouseenter", show);
    target.addEventListener("focus", show);
    target.addEventListener("mouseleave", () => this.hide());
    target.addEventListener("blur", () => this.hide());
  }

  hide(): void {
    this.root.hidden = true;
  }

  private show(target: HTMLElement, content: HTMLElement[]): void {
    this.root.replaceChildren(...content);
    this.root.hidden = false;
    const around = target.getBoundingClientRect();
    const own = this.root.getBoundingClientRect();
    const above = around.top - own.height - GAP_PX;
    this.root.style.left = `${Math.max(GAP_PX, Math.min(around.left + 24, innerWidth - own.width - GAP_PX))}px`;
    this.root.style.top = `${above > GAP_PX ? above : around.bottom + GAP_PX}px`;
  }
}
