/** The dashboard: connects the API's client with the panels. */

import { type ConnectionState, type Interval, MarketDataClient } from "@tickstream/client";
import "./style.css";
import { INTERVAL_MS } from "./candles";
import { Debounced } from "./debounced";
import { Delay } from "./delay";
import { byId, element, setData, setText } from "./dom";
import { clockTime, latency } from "./format";
import { type Drawable, Frames } from "./frames";
import { Market } from "./market";
import { AnomaliesPanel } from "./panels/anomalies";
import { Chart } from "./panels/chart";
import { DerivativesView } from "./panels/derivatives";
import { DetailsPanel } from "./panels/details";
import { EXPLAINED_TRADES, ExplainView } from "./panels/explain";
import { HealthPanel } from "./panels/health";
import { Ladder } from "./panels/ladder";
import { MetricsView } from "./panels/metrics";
import { type Choice, Picker } from "./panels/picker";
import { TickerPanel } from "./panels/ticker";
import { Tooltip } from "./panels/tooltip";
import { TradesPanel } from "./panels/trades";
import { VenuesView } from "./panels/venues";

const INTERVALS = Object.keys(INTERVAL_MS) as Interval[];
const SUMMARY_EVERY_MS = 1_000;
const HEALTH_EVERY_MS = 5_000;
const SYMBOLS_EVERY_MS = 15_000;
const GAPS_EVERY_MS = 5_000;
const ANOMALIES_PAGE = 100;
const GAPS_PAGE = 500;
/** Symbols of the table of feeds; the summary counts all. */
const FEEDS_PAGE = 200;
/** A status message of a whole connection arrives once for each symbol: this long they are collected. */
const COLLECT_MS = 1_000;
/** Symbols whose anomalies and status are followed beside the selected one. */
const FOLLOWED_MAX = 200;

class Dashboard {
  private readonly client = new MarketDataClient({ url: location.origin });
  private readonly frames = new Frames();
  private readonly delay = new Delay();
  private readonly chart = new Chart(() => this.mark(this.chart), () => void this.market?.loadOlder(), (startMs) => void this.explain(startMs));
  private readonly ladder = new Ladder(() => this.mark(this.ladder));
  private readonly trades = new TradesPanel(() => this.mark(this.trades));
  private readonly health = new HealthPanel(() => this.mark(this.health), (choice) => this.select(choice));
  private readonly anomalies = new AnomaliesPanel(() => this.mark(this.anomalies), new Tooltip());
  private readonly ticker = new TickerPanel();
  private readonly venues = new VenuesView();
  private readonly metrics = new MetricsView();
  private readonly derivatives = new DerivativesView();
  private readonly explained = new ExplainView();
  private readonly details: DetailsPanel = new DetailsPanel(
    { venues: this.venues, metrics: this.metrics, derivatives: this.derivatives, explain: this.explained },
    () => this.mark(this.details),
    (view) => {
      if (view === "explain" && !this.explained.filled) void this.explain(this.lastClosed());
    },
  );
  private readonly picker = new Picker((choice) => this.select(choice));
  private market: Market | null = null;
  private interval: Interval = "1m";
  private wasOpen = false;
  private choices: readonly Choice[] = [];
  private readonly kinds = new Map<string, string>();
  private readonly followed = new Set<string>();
  private readonly healthWanted = new Debounced(async () => void (await Promise.all([this.loadHealth(), this.loadGaps()])), COLLECT_MS);
  private loadingHealth = false;
  private loadingSummary = false;

  start(): void {
    const wanted = new URLSearchParams(location.search).get("interval") as Interval | null;
    if (wanted && INTERVALS.includes(wanted)) this.interval = wanted;
    this.offerIntervals();
    this.readKeys();
    this.client.onConnection((state) => this.connected(state));
    byId("connection").addEventListener("click", () => this.client.retryNow());
    void this.loadSymbols();
    void this.loadHealth();
    void this.loadGaps();
    void this.loadAnomalies();
    this.tick();
    setInterval(() => this.tick(), 1_000);
    setInterval(() => void this.loadSummary(), SUMMARY_EVERY_MS);
    setInterval(() => void this.loadHealth(), HEALTH_EVERY_MS);
    setInterval(() => void this.loadGaps(), GAPS_EVERY_MS);
    setInterval(() => void this.loadSymbols(), SYMBOLS_EVERY_MS);
  }

  private mark(panel: Drawable): void {
    this.frames.mark(panel);
  }

  // -------------------------------------------------------------- selection

  private select(choice: Choice): void {
    if (this.market?.id.venue === choice.venue && this.market.id.symbol === choice.symbol) return;
    this.market?.close();
    this.delay.clear();
    const market: Market = new Market(this.client, choice, this.interval, this.delay, {
      book: () => this.mark(this.ladder),
      candles: () => this.mark(this.chart),
      history: (problem) => this.chart.settled(problem),
      ticker: () => this.mark(this.ticker),
      details: () => this.mark(this.details),
      tape: () => {
        if (market.last) this.ladder.setLast(market.last.price, market.last.side);
        this.mark(this.trades);
        this.mark(this.ticker);
      },
    }, this.kinds.get(`${choice.venue}:${choice.symbol}`));
    this.market = market;
    this.ladder.show(market.book);
    this.trades.show(market.tape);
    this.chart.show(market.candles, this.interval);
    this.ticker.show(market);
    this.mark(this.ticker);
    for (const view of [this.venues, this.metrics, this.derivatives]) view.show(market);
    this.explained.clear();
    this.mark(this.details);
    this.picker.select(choice);
    this.health.select(choice);
    this.anomalies.select(choice.venue, choice.symbol);
    this.remember();
  }

  /** The start of the newest candle that is closed, or of the open one while it is alone. */
  private lastClosed(): number | null {
    const candles = this.market?.candles.items ?? [];
    const closed = candles.filter(({ state }) => state !== "open").pop();
    return (closed ?? candles[candles.length - 1])?.timeMs ?? null;
  }

  private async explain(startMs: number | null): Promise<void> {
    const { market, interval } = this;
    if (!market || startMs === null) return;
    this.explained.asked(startMs);
    if (this.details.shown === "explain") this.mark(this.details);
    else this.details.open("explain");
    const isWanted = (): boolean => this.market === market && this.interval === interval;
    try {
      const found = await this.client.explainCandle(market.id, { interval, start: new Date(startMs).toISOString(), limit: EXPLAINED_TRADES });
      if (isWanted()) this.explained.show(found);
    } catch (error) {
      if (isWanted()) this.explained.failed(String((error as Error).message));
    }
    this.mark(this.details);
  }

  private setInterval(interval: Interval): void {
    if (interval === this.interval) return;
    this.interval = interval;
    for (const button of byId("intervals").querySelectorAll("button")) {
      const checked = button.textContent === interval;
      button.ariaChecked = String(checked);
      button.tabIndex = checked ? 0 : -1;
    }
    if (this.market) {
      this.market.follow(interval);
      this.chart.show(this.market.candles, interval);
    }
    this.remember();
  }

  /** The address always opens the same view again. */
  private remember(): void {
    if (!this.market) return;
    const { venue, symbol } = this.market.id;
    history.replaceState(null, "", `?${new URLSearchParams({ venue, symbol, interval: this.interval })}`);
    document.title = `${symbol} · Tickstream`;
  }

  private offerIntervals(): void {
    const group = byId("intervals");
    INTERVALS.forEach((interval, index) => {
      const button = element("button", "", interval);
      button.type = "button";
      button.role = "radio";
      button.ariaChecked = String(interval === this.interval);
      button.tabIndex = interval === this.interval ? 0 : -1;
      button.title = `${interval} candles (${index + 1})`;
      button.addEventListener("click", () => this.setInterval(interval));
      group.append(button);
    });
    group.addEventListener("keydown", (event) => {
      const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
      if (step === 0) return;
      const index = (INTERVALS.indexOf(this.interval) + step + INTERVALS.length) % INTERVALS.length;
      this.setInterval(INTERVALS[index]!);
      (group.children[index] as HTMLElement).focus();
    });
  }

  // ------------------------------------------------------------- connection

  private connected(state: ConnectionState): void {
    const pill = byId("connection");
    const open = state.kind === "open";
    setData(pill, "state", state.kind);
    this.ladder.setOffline(!open);
    if (state.kind === "open") {
      setText(byId("connection-text"), state.roundTripMs === null ? "live" : `live · ${latency(state.roundTripMs)}`);
      pill.title = "Connected to the API; the number is the round trip to it and back";
    } else if (state.kind === "waiting") {
      setText(byId("connection-text"), "reconnecting");
      pill.title = `${state.reason}; trying again in ${(state.delayMs / 1_000).toFixed(1)} s. Click to try now.`;
    } else {
      setText(byId("connection-text"), state.kind === "connecting" ? "connecting" : "no connection");
    }
    if (open && !this.wasOpen && state.roundTripMs === null) this.caughtUp();
    this.wasOpen = open;
  }

  /** What the page missed while there was no connection. */
  private caughtUp(): void {
    void this.market?.catchUp();
    void this.loadAnomalies();
    void this.loadGaps();
  }

  // ---------------------------------------------------------------- history

  private async loadSymbols(): Promise<void> {
    try {
      const { data } = await this.client.symbols();
      this.choices = data.map(({ venue, symbol }) => ({ venue, symbol }));
      for (const { venue, symbol, kind } of data) if (kind !== "unknown") this.kinds.set(`${venue}:${symbol}`, kind);
    } catch (error) {
      this.health.failed(String((error as Error).message));
      return;
    }
    this.picker.offer(this.choices);
    this.selectFirst();
  }

  /** What the address names, else the first symbol that has data. */
  private selectFirst(): void {
    if (this.market) return;
    const wanted = new URLSearchParams(location.search);
    const isWanted = ({ venue, symbol }: Choice): boolean => symbol === wanted.get("symbol") && venue === (wanted.get("venue") ?? venue);
    const choice = this.choices.find(isWanted) ?? this.health.alive()[0];
    if (choice) this.select(choice);
  }

  private async loadSummary(): Promise<void> {
    if (document.hidden || this.loadingSummary) return;
    this.loadingSummary = true;
    try {
      const { data } = await this.client.statusSummary();
      this.health.count(data);
      // The table waits for its next page only when it would show nothing.
      if (this.health.alive().length === 0 && data.length > 0) await this.loadHealth();
    } catch (error) {
      this.health.failed(String((error as Error).message));
    } finally {
      this.loadingSummary = false;
    }
  }

  private async loadHealth(): Promise<void> {
    if (document.hidden || this.loadingHealth) return;
    this.loadingHealth = true;
    try {
      const { data } = await this.client.status({ limit: FEEDS_PAGE });
      this.health.show(data.symbols);
      for (const choice of this.health.alive().slice(0, FOLLOWED_MAX)) this.follow(choice);
      if (this.choices.length === 0) await this.loadSymbols();
      this.selectFirst();
    } catch (error) {
      this.health.failed(String((error as Error).message));
    } finally {
      this.loadingHealth = false;
    }
  }

  private async loadGaps(): Promise<void> {
    try {
      this.health.showGaps((await this.client.gaps({ state: "open", limit: GAPS_PAGE })).data);
    } catch {
      this.health.showGaps(null);
    }
  }

  private async loadAnomalies(): Promise<void> {
    try {
      const { data } = await this.client.anomalies({ limit: ANOMALIES_PAGE });
      this.anomalies.add(data);
      this.anomalies.settled(null);
    } catch (error) {
      this.anomalies.settled(String((error as Error).message));
    }
  }

  /** Anomalies and status of every symbol with data, so that a problem elsewhere is not missed. */
  private follow(choice: Choice): void {
    const key = `${choice.venue}:${choice.symbol}`;
    if (this.followed.has(key)) return;
    this.followed.add(key);
    this.client.subscribe("anomalies", choice, {
      message: ({ venue, symbol, data }) => this.anomalies.add([{ ...data, venue, symbol }]),
      gap: () => void this.loadAnomalies(),
    });
    this.client.subscribe("status", choice, {
      message: ({ snapshot }) => {
        if (!snapshot) this.healthWanted.request();
      },
    });
  }

  // ------------------------------------------------------------------- keys

  private readKeys(): void {
    const dialog = byId<HTMLDialogElement>("help-dialog");
    const palette = byId("palette");
    const setPalette = (safe: boolean): void => {
      document.documentElement.dataset["palette"] = safe ? "safe" : "classic";
      palette.ariaPressed = String(safe);
      localStorage.setItem("palette", safe ? "safe" : "classic");
      this.chart.recolor();
    };
    const togglePalette = (): void => setPalette(document.documentElement.dataset["palette"] !== "safe");
    if (localStorage.getItem("palette") === "safe") setPalette(true);
    palette.addEventListener("click", togglePalette);
    byId("help").addEventListener("click", () => dialog.showModal());
    byId("help-close").addEventListener("click", () => dialog.close());
    const keys: [string, string, () => void][] = [
      ["/", "Choose symbol and venue", () => this.picker.open()],
      [" ", "Hold the tape still", () => this.trades.togglePause()],
      ["v", "Best prices of all venues", () => this.details.open("venues")],
      ["m", "Metrics of the book", () => this.details.open("metrics")],
      ["d", "Derivatives", () => this.details.open("derivatives")],
      ["e", "Explain the last closed candle", () => void this.explain(this.lastClosed())],
      ["c", "Colour-blind safe colours", togglePalette],
      ["?", "This list", () => dialog.showModal()],
      ...INTERVALS.map((interval, index): [string, string, () => void] => [String(index + 1), `${interval} candles`, () => this.setInterval(interval)]),
    ];
    for (const [key, text] of keys) {
      const name = element("dt");
      name.append(element("kbd", "", key === " " ? "Space" : key.toUpperCase()));
      byId("help-keys").append(name, element("dd", "", text));
    }
    document.addEventListener("keydown", (event) => {
      const target = event.target instanceof Element ? event.target : document.body;
      const typing = target.matches("input[type=text]") || dialog.open;
      const pressing = event.key === " " && target.matches("button, input");
      if (typing || pressing || event.ctrlKey || event.metaKey || event.altKey) return;
      const found = keys.find(([key]) => key === event.key.toLowerCase());
      if (!found) return;
      event.preventDefault();
      found[2]();
    });
  }

  // ------------------------------------------------------------------ clock

  private tick(): void {
    setText(byId("clock"), clockTime(Date.now()));
    const summary = this.delay.summary();
    setText(byId("latency"), summary ? `${latency(summary.p50)} · ${latency(summary.p95)}` : "–");
    this.mark(this.health);
    this.mark(this.details);
  }
}

new Dashboard().start();
