/** A burst of status messages causes one request, never one for each symbol. */

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Debounced } from "../src/debounced";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test("many requests at once cause one run", async () => {
  let runs = 0;
  const task = new Debounced(async () => void (runs += 1), 1_000);
  for (let message = 0; message < 200; message++) task.request();
  expect(runs).toBe(0);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(runs).toBe(1);
});

test("requests while the task runs cause one more run, and never two runs at once", async () => {
  let running = 0;
  let most = 0;
  let runs = 0;
  const task = new Debounced(async () => {
    running += 1;
    runs += 1;
    most = Math.max(most, running);
    await new Promise((done) => setTimeout(done, 5_000));
    running -= 1;
  }, 1_000);
  task.request();
  await vi.advanceTimersByTimeAsync(2_000);
  for (let message = 0; message < 200; message++) task.request();
  await vi.advanceTimersByTimeAsync(60_000);
  expect([runs, most]).toEqual([2, 1]);
});

test("the next request after a run causes the next run", async () => {
  let runs = 0;
  const task = new Debounced(async () => void (runs += 1), 10);
  task.request();
  await vi.advanceTimersByTimeAsync(20);
  task.request();
  await vi.advanceTimersByTimeAsync(20);
  expect(runs).toBe(2);
});
