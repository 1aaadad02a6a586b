/** Decimal strings compared, added and subtracted exactly; prices and sizes are never turned into floats on the way. */

interface Scaled {
  /** The digits without the point, signed. */
  units: bigint;
  /** How many of those digits stand after the point. */
  scale: number;
}

const FORM = /^(-?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,3}))?$/;

function scaled(text: string): Scaled {
  const parts = FORM.exec(text);
  if (!parts || (!parts[2] && !parts[3])) throw new RangeError(`not a decimal: ${JSON.stringify(text)}`);
  const fraction = parts[3] ?? "";
  const units = BigInt(`${parts[2] ?? ""}${fraction}`) * (parts[1] ? -1n : 1n);
  const scale = fraction.length - Number(parts[4] ?? 0);
  return scale >= 0 ? { units, scale } : { units: units * 10n ** BigInt(-scale), scale: 0 };
}

function aligned(a: string, b: string): [bigint, bigint, number] {
  const x = scaled(a);
  const y = scaled(b);
  const scale = Math.max(x.scale, y.scale);
  return [x.units * 10n ** BigInt(scale - x.scale), y.units * 10n ** BigInt(scale - y.scale), scale];
}

function written(units: bigint, scale: number): string {
  if (scale === 0) return units.toString();
  const sign = units < 0n ? "-" : "";
  const digits = (units < 0n ? -units : units).toString().padStart(scale + 1, "0");
  return `${sign}${digits.slice(0, -scale)}.${digits.slice(-scale)}`;
}

/** Floats of the two decide when they are clearly apart; only close calls need exact arithmetic. */
export function compareDecimals(a: string, b: string): number {
  if (a === b) return 0;
  const x = Number(a);
  const y = Number(b);
  const difference = x - y;
  if (Math.abs(difference) > 1e-12 * (Math.abs(x) + Math.abs(y))) return difference;
  const [p, q] = aligned(a, b);
  return p < q ? -1 : p > q ? 1 : 0;
}

/** Keeps as many places as the more precise of the two. */
export function addDecimals(a: string, b: string): string {
  const [p, q, scale] = aligned(a, b);
  return written(p + q, scale);
}

/** Keeps as many places as the more precise of the two. */
export function subtractDecimals(a: string, b: string): string {
  const [p, q, scale] = aligned(a, b);
  return written(p - q, scale);
}

/** True for zero in any notation, such as `0`, `0.00000000` or `0e-8`. */
export function isZero(text: string): boolean {
  return text === "0" || Number(text) === 0;
}
