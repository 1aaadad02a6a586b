/** The shapes of the API: WebSocket messages and REST answers. Every number is a decimal string. */

export type Channel =
  | "ticker" | "trades" | "book" | "candles" | "derivatives" | "metrics" | "consolidated" | "anomalies" | "status";
export type Interval = "1m" | "5m" | "15m" | "1h" | "4h" | "1d";
export type Side = "buy" | "sell";
/** `[price, size]`, in the venue's own writing; size zero in an update removes the level. */
export type Level = [price: string, size: string];

export interface TickerData {
  bid: string | null;
  bid_size: string | null;
  ask: string | null;
  ask_size: string | null;
  last: string | null;
  volume_24h: string | null;
  high_24h: string | null;
  low_24h: string | null;
  change_24h: string | null;
}

export interface BookData {
  bids: Level[];
  asks: Level[];
}

export interface TradeData {
  trade_id: string;
  price: string;
  size: string;
  /** The aggressor's side. */
  side: Side | "unknown";
  liquidation: boolean;
  /** Only where it amends an executed trade, as equities do. */
  action?: "correct" | "cancel";
  /** Only of a correction: the trade whose place it takes. */
  original_id?: string;
  /** The venue's own codes; absent where it sends none. */
  conditions?: string[];
  /** What it does not update; absent where it updates everything. */
  excluded_from?: ("volume" | "high_low" | "open_close")[];
}

export interface CandleData {
  /** Length of the candle; of a bar by recipe also `tick:`, `volume:` or `value:` with the size of a bar. */
  interval: string;
  start: string;
  end: string;
  open: string | null;
  high: string | null;
  low: string | null;
  close: string | null;
  volume: string;
  /** Null where the venue does not send it; so are the next two. */
  quote_volume: string | null;
  buy_volume: string | null;
  trades: number | null;
  state: "open" | "final" | "revised";
  /** Grows with every correction. */
  revision: number;
  origin: string;
  valid: boolean;
  reason: string;
  /** `quote_volume` divided by `volume`, 18 significant digits. */
  vwap: string | null;
  /** Only of a bar by recipe; so are the next five. */
  recipe?: string;
  recipe_hash?: string;
  /** One more with each tick, volume or value bar; null for bars of time. */
  number?: number | null;
  sell_volume?: string | null;
  buy_trades?: number | null;
  sell_trades?: number | null;
}

/** Metrics of a book since `start`; null where unknown, as all are while the book is not valid. */
export interface MetricsData {
  start: string;
  bid: string | null;
  bid_size: string | null;
  ask: string | null;
  ask_size: string | null;
  mid: string | null;
  microprice: string | null;
  spread: string | null;
  spread_bps: string | null;
  imbalance: string | null;
  /** Distances from mid in basis points; the n-th goes with the n-th depths. */
  depth_bps: string[];
  bid_depths: string[];
  ask_depths: string[];
  bid_reach_bps: string | null;
  ask_reach_bps: string | null;
  order_flow: string | null;
  changes: number;
  best_price_changes: number;
}

export interface ConsolidatedSide {
  price: string;
  size: string;
  venues: string[];
}

export interface ConsolidatedVenue {
  venue: string;
  symbol: string;
  bid: string | null;
  bid_size: string | null;
  ask: string | null;
  ask_size: string | null;
  contract_multiplier: string | null;
  valid: boolean;
  reason: string;
  timestamp: string | null;
  age_ms: number | null;
}

/** The best bid and offer over all valid venues. */
export interface ConsolidatedData {
  kind: string;
  state: "normal" | "locked" | "crossed" | "one_sided" | "unknown";
  bid: ConsolidatedSide | null;
  ask: ConsolidatedSide | null;
  mid: string | null;
  spread: string | null;
  venues: ConsolidatedVenue[];
  left_out: string[];
}

/** What is known of a derivative; rates and volatilities are fractions, null is unknown. */
export interface DerivativeFields {
  mark_price: string | null;
  index_price: string | null;
  open_interest: string | null;
  open_interest_value: string | null;
  funding_rate: string | null;
  predicted_funding_rate: string | null;
  next_funding_time: string | null;
  /** Seconds between payments. */
  funding_interval: number | null;
  delta: string | null;
  gamma: string | null;
  vega: string | null;
  theta: string | null;
  rho: string | null;
  bid_iv: string | null;
  ask_iv: string | null;
  mark_iv: string | null;
  underlying_price: string | null;
}

export interface LiquidationData {
  timestamp: string;
  /** Of the liquidation order: sell closes a long position. */
  side: Side | "unknown";
  price: string;
  size: string;
  liquidation_id: string | null;
}

/** The newest value of each field, with the time of each that is not null. */
export interface LatestDerivative extends DerivativeFields {
  updated: Record<string, string>;
}

/** The newest values, and the liquidations that are new with this message. */
export interface DerivativeData extends LatestDerivative {
  liquidations: LiquidationData[];
}

/** What one message of the venue had; the other fields are null. */
export interface StoredDerivative extends DerivativeFields {
  timestamp: string;
  liquidations: LiquidationData[];
  origin: string;
  valid: boolean;
  reason: string;
}

/** An anomaly as it is now; all messages about one have the same id. */
export interface AnomalyData {
  anomaly_id: string;
  kind: string;
  severity: string;
  metric: string;
  /** The worst value so far. */
  value: string;
  limit: string;
  usual: string | null;
  text: string;
  phase: "start" | "peak" | "end";
  start: string;
  peak: string | null;
  /** Null until it has ended. */
  end: string | null;
  evidence: Record<string, string>;
}

export interface StatusData {
  kind: string;
  reason: string;
  detail: string;
  line: string;
  channel: string | null;
  gap_id: string | null;
  expected: number | null;
  received: number | null;
}

interface Payloads {
  ticker: TickerData;
  l2_snapshot: BookData;
  l2_update: BookData;
  trade: TradeData;
  candle: CandleData;
  derivative: DerivativeData;
  metrics: MetricsData;
  consolidated: ConsolidatedData;
  anomaly: AnomalyData;
  status: StatusData;
}

export type MessageType = keyof Payloads;

/** One live message; `sequence` counts by one per stream, so that a gap is seen. */
export type Message<T extends MessageType = MessageType> = {
  [K in T]: {
    type: K;
    venue: string;
    symbol: string;
    timestamp: string;
    sequence: number;
    valid: boolean;
    reason: string;
    data: Payloads[K];
    /** Part of the state with which a stream begins. */
    snapshot?: true;
    /** The latest state, in place of messages that were left out for a client that reads slowly. */
    conflated?: true;
    /** Only for books. */
    depth?: number;
  };
}[T];

/** What the server says about a request rather than about a market. */
export type Control =
  | { type: "subscribed" | "unsubscribed"; id?: number; channels: Channel[]; symbols: string[] }
  | { type: "pong"; id?: number }
  | { type: "error"; id?: number; code: string; message: string };

export const CHANNEL_OF: Readonly<Record<MessageType, Channel>> = {
  ticker: "ticker",
  l2_snapshot: "book",
  l2_update: "book",
  trade: "trades",
  candle: "candles",
  derivative: "derivatives",
  metrics: "metrics",
  consolidated: "consolidated",
  anomaly: "anomalies",
  status: "status",
};

// ---------------------------------------------------------------- REST answers

/** What every REST answer has; `valid` says whether it may be trusted and `reason` why not. */
export interface Answer<D> {
  type: string;
  timestamp: string;
  valid: boolean;
  reason: string;
  data: D;
}

/** An answer about one symbol. */
export interface SymbolAnswer<D> extends Answer<D> {
  venue: string;
  symbol: string;
}

/** A list, newest first; `next_cursor` gives the next, older page and is null on the last. */
export interface Paged {
  next_cursor: string | null;
}

export interface SymbolInfo {
  venue: string;
  symbol: string;
  venue_symbol: string;
  base_currency: string;
  quote_currency: string;
  min_order_size: string | null;
  tick_size: string | null;
  size_increment: string | null;
  status: string;
  kind: string;
  /** Of a future or option. */
  expiry: string | null;
  strike: string | null;
  /** Units of the underlying (of the quote currency where inverse) in one contract. */
  contract_multiplier: string | null;
  settlement_currency: string | null;
  /** Whether it is settled in its base currency. */
  inverse: boolean | null;
  valid: boolean;
  reason: string;
}

export interface StoredTrade extends TradeData {
  timestamp: string;
  valid: boolean;
  reason: string;
}

export interface StoredMetrics extends MetricsData {
  timestamp: string;
  valid: boolean;
  reason: string;
}

/** A trade that counted in a candle. */
export interface ExplainedTrade {
  trade_id: string;
  timestamp: string;
  price: string;
  size: string;
  side: Side | "unknown";
  conditions: string[];
  /** Of volume, high_low and open_close, what it updates. */
  counts_in: string[];
  /** Which of the candle's prices equal its price. */
  has_price_of: string[];
  origin: string;
  valid: boolean;
  reason: string;
  received: string;
}

/** A trade that did not count in a candle. */
export interface LeftOutTrade {
  trade_id: string;
  timestamp: string;
  price: string;
  size: string;
  side: Side | "unknown";
  conditions: string[];
  why: "excluded" | "late" | "cancelled" | "corrected" | "duplicate" | "refused";
  detail: string;
}

/** One closed state of a candle, with what changed since the one before and why. */
export interface ExplainedRevision {
  revision: number;
  state: string;
  received: string;
  origin: string;
  valid: boolean;
  reason: string;
  changes: { field: string; before: unknown; after: unknown }[];
  because: string[];
}

/** Why a candle is what it is. */
export interface Explanation {
  type: "candle_explanation";
  venue: string;
  symbol: string;
  interval: string;
  start: string;
  end: string;
  /** `equal`: the stored trades make the stored candle; `different`: they do not. */
  verdict: "equal" | "different" | "open" | "from_history" | "not_stored";
  summary: string;
  candle: Record<string, unknown> | null;
  recomputed: Record<string, unknown>;
  differences: { field: string; stored: unknown; recomputed: unknown }[];
  counted: { count: number; items: ExplainedTrade[] };
  left_out: { count: number; by_reason: Record<string, number>; items: LeftOutTrade[] };
  duplicates_known: boolean;
  /** Oldest first. */
  revisions: ExplainedRevision[];
  gaps: Record<string, unknown>[];
  /** The venue's own candle, where it is stored. */
  venue_bar: Record<string, unknown> | null;
  venue_differences: { field: string; ours: unknown; venue: unknown; difference: string | null }[];
}

export interface StoredAnomaly extends AnomalyData {
  venue: string;
  symbol: string;
  timestamp: string;
}

/** One gap, from its discovery to its repair; the symbol is `*` when the whole connection was concerned. */
export interface Gap {
  gap_id: string;
  venue: string;
  symbol: string;
  channel: string | null;
  line: string;
  reason: string;
  detail: string;
  state: "open" | "repaired";
  start: string | null;
  end: string | null;
  expected: number | null;
  received: number | null;
  found_by: string;
  detected_at: string;
  repaired_at: string | null;
  repaired_by: string | null;
}

/** The health of one symbol's data at one venue. */
export interface SymbolStatus {
  venue: string;
  symbol: string;
  valid: boolean;
  reason: string;
  timestamp: string | null;
  age_ms: number | null;
  book_valid: boolean;
  book_reason: string;
  book_levels: number;
  trades_valid: boolean;
  trades_reason: string;
  halted: boolean;
  /** Messages since the API started. */
  messages: number;
  line: string;
  sequence: number | null;
}

export interface VenueSummary {
  venue: string;
  symbols: number;
  valid: number;
  /** The symbols that are not valid, by reason. */
  reasons: Record<string, number>;
  halted: number;
  messages: number;
  timestamp: string | null;
  age_ms: number | null;
}

export interface FeedEvent extends StatusData {
  venue: string;
  symbol: string;
  timestamp: string;
}

export interface Health {
  symbols: SymbolStatus[];
  events: FeedEvent[];
}
