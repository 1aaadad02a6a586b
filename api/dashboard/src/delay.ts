/** The delay of the last messages: this computer's clock minus the venue's timestamp. */

const SAMPLES_MAX = 512;

export class Delay {
  private readonly samples = new Float64Array(SAMPLES_MAX);
  private count = 0;

  clear(): void {
    this.count = 0;
  }

  add(ms: number): void {
    this.samples[this.count % SAMPLES_MAX] = ms;
    this.count += 1;
  }

  /** Median and 95th percentile in milliseconds, or null when nothing came yet. */
  summary(): { p50: number; p95: number } | null {
    const size = Math.min(this.count, SAMPLES_MAX);
    if (size === 0) return null;
    const sorted = this.samples.slice(0, size).sort();
    return { p50: sorted[Math.floor(size * 0.5)]!, p95: sorted[Math.floor(size * 0.95)]! };
  }
}
