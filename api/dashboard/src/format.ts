/** How times, ages and digits are written; all times are UTC. */

/** `2026-08-09T21:05:48.228568Z` as milliseconds since the epoch, microseconds in the fraction. */
export function parseTime(text: string): number {
  const point = text.indexOf(".");
  if (point < 0) return Date.parse(text);
  return Date.parse(`${text.slice(0, point)}Z`) + Number(`0${text.slice(point, -1)}`) * 1000;
}

export function clockTime(ms: number, withMs = false): string {
  return new Date(ms).toISOString().slice(11, withMs ? 23 : 19);
}

export function dateTime(ms: number): string {
  return new Date(ms).toISOString().slice(0, 19).replace("T", " ");
}

export function age(ms: number): string {
  if (ms < 0) return "0 ms";
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 10_000) return `${(ms / 1_000).toFixed(1)} s`;
  if (ms < 120_000) return `${Math.round(ms / 1_000)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${Math.round(ms / 3_600_000)} h`;
  return `${Math.round(ms / 86_400_000)} d`;
}

/** As `age`, finer where it is short; negative when the venue's clock is ahead of ours. */
export function latency(ms: number): string {
  return Math.abs(ms) < 10 ? `${ms.toFixed(1)} ms` : ms < 0 ? `-${age(-ms)}` : age(ms);
}

export function places(text: string): number {
  const point = text.indexOf(".");
  return point < 0 ? 0 : text.length - point - 1;
}

/** Blanks after the digits, so that points stand under each other without writing a digit that was not sent. */
export function padded(text: string, digits: number): string {
  const own = places(text);
  if (own >= digits) return text;
  return text + " ".repeat(digits - own + (own === 0 ? 1 : 0));
}

/** So many significant digits at most, without an exponent; what is shorter stays as it is. */
export function rounded(text: string, digits: number): string {
  if (text.replace(/^-|\./g, "").length <= digits) return text;
  const value = Number(text);
  if (value === 0) return "0";
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))));
  const fixed = value.toFixed(Math.min(20, decimals));
  return fixed.includes(".") ? fixed.replace(/\.?0+$/, "") : fixed;
}

/** A fraction in percent, exact: `0.0001` is `0.01 %`. */
export function percent(fraction: string): string {
  const [, sign, whole, part = ""] = /^(-?)(\d+)(?:\.(\d*))?$/.exec(fraction) ?? ["", "", fraction, ""];
  const shifted = part.padEnd(2, "0");
  const number = `${whole}${shifted.slice(0, 2)}`.replace(/^0+(?=\d)/, "");
  const rest = shifted.slice(2).replace(/0+$/, "");
  return `${sign}${number}${rest ? `.${rest}` : ""} %`;
}

const PX_PER_EM = 0.6; // the advance of the monospaced font
const FONT_MIN_PX = 8.5;
const FONT_MAX_PX = 12;

/** The largest font in which so many digits fit: a price whose end is cut off reads as another price. */
export function fittingFont(widthPx: number, digits: number): string {
  const size = Math.min(FONT_MAX_PX, widthPx / (Math.max(1, digits) * PX_PER_EM));
  return `${Math.max(FONT_MIN_PX, Math.floor(size * 4) / 4)}px`;
}

/** Why a value may not be trusted, and what happens next, in words. */
export const REASONS: Readonly<Record<string, string>> = {
  gap: "Messages from the venue are missing. Waiting for a new snapshot.",
  stale: "Nothing new from the venue for too long. The market may have moved.",
  crossed: "The best bid is above the best ask, which cannot be. Waiting for a new snapshot.",
  checksum: "The venue's checksum does not match these levels. Waiting for a new snapshot.",
  halted: "The venue has halted trading in this symbol.",
  resyncing: "A new snapshot is being loaded.",
  disconnected: "The connection to the venue is down and is being opened again.",
  offline: "This page lost its connection to the API. What you see is old.",
  missed: "This page missed messages and is subscribing again.",
};

export function reasonText(reason: string): string {
  return REASONS[reason] ?? (reason ? `The platform says: ${reason}.` : "The platform gave no reason.");
}
