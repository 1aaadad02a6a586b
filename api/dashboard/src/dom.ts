/** Small steps on the document that every panel takes. */

export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no element #${id}`);
  return found as T;
}

export function element<K extends keyof HTMLElementTagNameMap>(
  name: K,
  className = "",
  text = "",
): HTMLElementTagNameMap[K] {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** Writes only what differs: an unchanged text costs no layout. */
export function setText(target: Element, text: string): void {
  if (target.textContent !== text) target.textContent = text;
}

export function setData(target: HTMLElement, name: string, value: string): void {
  if (target.dataset[name] !== value) target.dataset[name] = value;
}

/** Sets a style property only when it differs. */
export function setProperty(target: HTMLElement, name: string, value: string): void {
  if (target.style.getPropertyValue(name) !== value) target.style.setProperty(name, value);
}

/** A name and its value; what the value means in full, and a short note beside it. */
export type Fact = readonly [name: string, value: string, title?: string, note?: string];

/** Fills a list of names and values, keeping the elements that are there. */
export function setFacts(target: HTMLElement, facts: readonly Fact[]): void {
  while (target.children.length > facts.length) target.lastElementChild!.remove();
  facts.forEach(([name, value, title = "", note = ""], index) => {
    let fact = target.children[index] as HTMLElement | undefined;
    if (!fact) {
      fact = element("div", "fact");
      fact.append(element("dt"), element("dd"), element("small"));
      target.append(fact);
    }
    const [term, text, small] = fact.children;
    setText(term!, name);
    setText(text!, value);
    setText(small!, note);
    if (fact.title !== title) fact.title = title;
  });
}

/** Shows an empty state that says what is missing and what to do, or hides it when `title` is null. Backticks mark code. */
export function setEmpty(target: HTMLElement, title: string | null, advice = ""): void {
  const key = title === null ? "" : `${title}\n${advice}`;
  target.hidden = title === null;
  if (target.dataset["shown"] === key) return;
  target.dataset["shown"] = key;
  const line = element("span");
  advice.split("`").forEach((part, index) => line.append(index % 2 ? element("code", "", part) : part));
  target.replaceChildren(element("strong", "", title ?? ""), line);
}
