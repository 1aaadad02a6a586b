/** Candles with volume. The library draws with floats; the legend shows the API's own digits. */

import type { Interval } from "@tickstream/client";
import {
  CandlestickSeries,
  ColorType,
  createChart,
  CrosshairMode,
  HistogramSeries,
  type IChartApi,
  type ISeriesApi,
  type UTCTimestamp,
} from "lightweight-charts";
import { type Candle, type Candles, INTERVAL_MS } from "../candles";
import { byId, element, setEmpty } from "../dom";
import { dateTime, places, reasonText } from "../format";
import type { Drawable } from "../frames";

const BARS_SHOWN_MAX = 120;
/** A young platform has few candles; fewer bars than this would be drawn as blocks. */
const BARS_SHOWN_MIN = 40;
/** Free bars to the right of the newest. */
const BARS_FREE = 5;

interface Colors {
  up: string;
  down: string;
  text: string;
  line: string;
  invalid: string;
}

function colors(): Colors {
  const style = getComputedStyle(document.documentElement);
  const read = (name: string): string => style.getPropertyValue(name).trim();
  return {
    up: read("--up"),
    down: read("--down"),
    text: read("--text-dim"),
    line: read("--line"),
    invalid: read("--text-faint"),
  };
}

export class Chart implements Drawable {
  private candles: Candles | null = null;
  private interval: Interval = "1m";
  private hovered: number | null = null;
  private drawnToMs = -Infinity;
  private fitted = false;
  private loading = true;
  private problem: string | null = null;
  private digits = -1;
  private colors = colors();
  private readonly chart: IChartApi;
  private readonly prices: ISeriesApi<"Candlestick">;
  private readonly volumes: ISeriesApi<"Histogram">;
  private readonly root = byId("chart");
  private readonly legend = byId("legend");
  private readonly empty = byId("chart-empty");

  constructor(
    private readonly changed: () => void,
    wantOlder: () => void,
    chosen: (startMs: number) => void,
  ) {
    this.chart = createChart(this.root, {
      autoSize: true,
      layout: {
        background: { type: ColorType.Solid, color: "transparent" },
        fontFamily: '"JetBrains Mono Variable", monospace',
        fontSize: 11,
        attributionLogo: false, // its inline style would not pass the page's security policy; the help dialog credits
      },
      crosshair: { mode: CrosshairMode.Normal },
      timeScale: { timeVisible: true, secondsVisible: false, rightOffset: BARS_FREE, borderVisible: false },
      rightPriceScale: { borderVisible: false, scaleMargins: { top: 0.08, bottom: 0.24 } },
      localization: { timeFormatter: (time: number) => `${dateTime(time * 1000)} UTC` },
    });
    this.prices = this.chart.addSeries(CandlestickSeries, { borderVisible: false });
    this.volumes = this.chart.addSeries(HistogramSeries, {
      priceScaleId: "volume",
      priceFormat: { type: "volume" },
      lastValueVisible: false,
      priceLineVisible: false,
    });
    this.chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
    this.chart.subscribeCrosshairMove(({ time }) => {
      this.hovered = typeof time === "number" ? time * 1000 : null;
      this.changed();
    });
    this.chart.subscribeClick(({ time }) => {
      if (typeof time === "number") chosen(time * 1000);
    });
    this.chart.timeScale().subscribeVisibleLogicalRangeChange((range) => {
      if (range && range.from < 10 && !this.loading) wantOlder();
    });
    this.applyColors();
  }

  show(candles: Candles, interval: Interval): void {
    this.candles = candles;
    this.interval = interval;
    this.fitted = false;
    this.loading = true;
    this.problem = null;
    this.hovered = null;
    this.digits = -1;
    this.changed();
  }

  /** History was loaded, or could not be. */
  settled(problem: string | null): void {
    this.loading = false;
    this.problem = problem;
    this.changed();
  }

  /** The palette changed. */
  recolor(): void {
    this.colors = colors();
    this.applyColors();
    this.drawAll();
  }

  draw(): void {
    const { candles } = this;
    if (!candles) return;
    const changed = candles.taken();
    // The library changes only the newest bar cheaply; a correction of an older one is rare.
    if (changed === null || changed.some(({ timeMs }) => timeMs < this.drawnToMs)) this.drawAll();
    else for (const candle of changed) this.drawOne(candle);
    this.drawLegend();
    this.drawEmpty(candles.items.length);
  }

  private drawAll(): void {
    const items = this.candles?.items ?? [];
    this.drawnToMs = this.candles?.newest?.timeMs ?? -Infinity;
    this.alignDigits(items);
    this.prices.setData(items.map((candle) => this.bar(candle)));
    this.volumes.setData(items.map((candle) => this.volume(candle)));
    if (this.fitted || items.length === 0 || this.loading) return;
    this.fitted = true;
    const shown = Math.min(BARS_SHOWN_MAX, Math.max(BARS_SHOWN_MIN, items.length + BARS_FREE));
    this.chart.timeScale().setVisibleLogicalRange({ from: items.length - shown, to: items.length + BARS_FREE });
  }

  private drawOne(candle: Candle): void {
    this.alignDigits([candle]);
    this.drawnToMs = candle.timeMs;
    this.prices.update(this.bar(candle));
    this.volumes.update(this.volume(candle));
  }

  private bar(candle: Candle) {
    const time = (candle.timeMs / 1000) as UTCTimestamp;
    const { open, high, low, close } = candle;
    if (open === null || high === null || low === null || close === null) return { time };
    const values = { time, open: Number(open), high: Number(high), low: Number(low), close: Number(close) };
    return candle.valid ? values : { ...values, color: this.colors.invalid, wickColor: this.colors.invalid };
  }

  private volume(candle: Candle) {
    const time = (candle.timeMs / 1000) as UTCTimestamp;
    if (candle.open === null || candle.close === null) return { time };
    const color = !candle.valid ? this.colors.invalid : Number(candle.close) >= Number(candle.open) ? this.colors.up : this.colors.down;
    return { time, value: Number(candle.volume), color: `${color}59` };
  }

  /** The axis writes as many places as the venue's own prices have. */
  private alignDigits(items: readonly Candle[]): void {
    const most = items.slice(-200).reduce((digits, { close }) => Math.max(digits, close === null ? 0 : places(close)), this.digits);
    if (most <= this.digits || items.length === 0) return;
    this.digits = most;
    this.prices.applyOptions({ priceFormat: { type: "price", precision: most, minMove: 10 ** -most } });
  }

  private drawLegend(): void {
    const candle = (this.hovered !== null && this.candles?.at(this.hovered)) || this.candles?.newest;
    if (!candle) {
      this.legend.replaceChildren();
      return;
    }
    const rising = Number(candle.close) >= Number(candle.open);
    const values = element("div", rising ? "up" : "down");
    const parts = [["O", candle.open], ["H", candle.high], ["L", candle.low], ["C", candle.close], ["V", candle.volume]] as const;
    for (const [name, value] of parts) values.append(element("span", "", `${name} `), element("b", "", value ?? "–"), "  ");
    this.legend.replaceChildren(element("span", "", `${dateTime(candle.timeMs).slice(0, 16)}`), values);
    const notes = [
      candle.open === null ? "no trades" : "",
      candle.state === "revised" ? `revised ×${candle.revision}` : "",
      candle.valid ? "" : `invalid: ${candle.reason}`,
    ].filter(Boolean);
    if (notes.length === 0) return;
    const note = element("em", "", notes.join(" · "));
    if (!candle.valid) note.title = reasonText(candle.reason);
    this.legend.append(note);
  }

  private drawEmpty(count: number): void {
    if (count > 0) setEmpty(this.empty, null);
    else if (this.problem) setEmpty(this.empty, "History could not be loaded", `${this.problem} Live candles still appear as they come.`);
    else if (this.loading) setEmpty(this.empty, "Loading candles…");
    else setEmpty(this.empty, `No ${this.interval} candles yet`, `The first appears with the first trade. Nothing after ${INTERVAL_MS[this.interval] / 60_000} min? See Feed health below, or run \`tickstream status\`.`);
  }

  private applyColors(): void {
    const { up, down, text, line } = this.colors;
    this.chart.applyOptions({
      layout: { textColor: text },
      grid: { vertLines: { color: line }, horzLines: { color: line } },
    });
    this.prices.applyOptions({ upColor: up, downColor: down, wickUpColor: up, wickDownColor: down });
  }
}
