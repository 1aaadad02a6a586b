/** The symbol and venue selector: a button that opens a list to filter by typing. */

import { byId, element, setText } from "../dom";

export interface Choice {
  venue: string;
  symbol: string;
}

/** More than anyone scrolls through; typing narrows. */
const OPTIONS_MAX = 200;

export class Picker {
  private choices: readonly Choice[] = [];
  private matching: Choice[] = [];
  private active = 0;
  private readonly button = byId<HTMLButtonElement>("picker");
  private readonly list = byId("picker-list");
  private readonly filter = byId<HTMLInputElement>("picker-filter");
  private readonly options = byId("picker-options");

  constructor(private readonly chosen: (choice: Choice) => void) {
    this.button.addEventListener("click", () => (this.list.hidden ? this.open() : this.close()));
    this.filter.addEventListener("input", () => this.narrow());
    this.filter.addEventListener("keydown", (event) => this.key(event));
    this.options.addEventListener("mousedown", (event) => event.preventDefault());
    this.options.addEventListener("click", (event) => {
      const option = (event.target as HTMLElement).closest("li");
      const choice = option && this.matching[Number(option.dataset["index"])];
      if (choice) this.take(choice);
    });
    document.addEventListener("mousedown", (event) => {
      if (!(event.target as HTMLElement).closest(".picker")) this.close();
    });
    this.list.addEventListener("focusout", (event) => {
      if (!this.list.contains(event.relatedTarget as Node | null)) this.close();
    });
  }

  offer(choices: readonly Choice[]): void {
    this.choices = choices;
    if (!this.list.hidden) this.narrow();
  }

  select({ venue, symbol }: Choice): void {
    setText(byId("picker-symbol"), symbol);
    setText(byId("picker-venue"), venue);
    this.button.setAttribute("aria-label", `Symbol ${symbol} on ${venue}; choose another`);
  }

  open(): void {
    this.list.hidden = false;
    this.button.setAttribute("aria-expanded", "true");
    this.filter.value = "";
    this.narrow();
    this.filter.focus();
  }

  private close(): void {
    this.list.hidden = true;
    this.button.setAttribute("aria-expanded", "false");
  }

  private take(choice: Choice): void {
    this.close();
    this.button.focus();
    this.chosen(choice);
  }

  private narrow(): void {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.matching = this.choices
      .filter(({ venue, symbol }) => words.every((word) => `${symbol} ${venue}`.toLowerCase().includes(word)))
      .slice(0, OPTIONS_MAX);
    this.active = 0;
    if (this.matching.length === 0) {
      const text = this.choices.length ? "No symbol matches" : "The API knows no symbols yet";
      this.options.replaceChildren(element("li", "none", text));
      return;
    }
    this.options.replaceChildren(
      ...this.matching.map(({ venue, symbol }, index) => {
        const option = element("li");
        option.id = `picker-option-${index}`;
        option.role = "option";
        option.dataset["index"] = String(index);
        option.append(element("b", "", symbol), element("span", "", venue));
        return option;
      }),
    );
    this.mark();
  }

  private mark(): void {
    [...this.options.children].forEach((option, index) => {
      option.ariaSelected = String(index === this.active);
      if (index === this.active) option.scrollIntoView({ block: "nearest" });
    });
    this.filter.setAttribute("aria-activedescendant", `picker-option-${this.active}`);
  }

  private key(event: KeyboardEvent): void {
    const count = this.matching.length;
    if (event.key === "ArrowDown" && count) this.active = (this.active + 1) % count;
    else if (event.key === "ArrowUp" && count) this.active = (this.active + count - 1) % count;
    else if (event.key === "Enter" && count) return this.take(this.matching[this.active]!);
    else if (event.key === "Escape") {
      this.close();
      this.button.focus();
      return;
    } else return;
    event.preventDefault();
    this.mark();
  }
}
