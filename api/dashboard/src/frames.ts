/** Draws what changed, at most once a frame, however many messages came in between. */

export interface Drawable {
  draw(): void;
}

export class Frames {
  private readonly dirty = new Set<Drawable>();
  private scheduled = false;

  mark(panel: Drawable): void {
    this.dirty.add(panel);
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => this.flush());
  }

  private flush(): void {
    this.scheduled = false;
    const panels = [...this.dirty];
    this.dirty.clear();
    for (const panel of panels) {
      try {
        panel.draw();
      } catch (error) {
        reportError(error); // one panel's fault must not stop the others
      }
    }
  }
}
