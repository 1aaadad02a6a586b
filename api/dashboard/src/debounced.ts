/** Runs a task once for many requests: after a pause, and never while it still runs. */

export class Debounced {
  private timer: ReturnType<typeof setTimeout> | null = null;
  private running = false;
  private wanted = false;

  constructor(
    private readonly task: () => Promise<void>,
    private readonly delayMs: number,
  ) {}

  /** Run the task after the delay; more requests until then, or while it runs, cause one run together. */
  request(): void {
    if (this.running) this.wanted = true;
    else this.timer ??= setTimeout(() => void this.run(), this.delayMs);
  }

  private async run(): Promise<void> {
    this.timer = null;
    this.running = true;
    try {
      await this.task();
    } finally {
      this.running = false;
      if (this.wanted) {
        this.wanted = false;
        this.request();
      }
    }
  }
}
