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
