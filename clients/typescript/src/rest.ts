/** REST requests with a time limit; an answer that is not a success is a `ProblemError`. */

/** The API's `application/problem+json`. */
export class ProblemError extends Error {
  constructor(
    readonly status: number,
    readonly title: string,
    readonly detail: string,
  ) {
    super(detail ? `${title}: ${detail}` : title);
    this.name = "ProblemError";
  }
}

export type Query = Record<string, string | number | undefined>;

export class Rest {
  constructor(
    private readonly url: string,
    private readonly fetcher: typeof fetch,
    private readonly timeoutMs: number,
  ) {}

  async get<T>(path: string, query: Query = {}): Promise<T> {
    const url = new URL(path, this.url);
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) url.searchParams.set(name, String(value));
    }
    const response = await this.fetcher(url, {
      headers: { accept: "application/json" },
      signal: AbortSignal.timeout(this.timeoutMs),
    });
    if (!response.ok) {
      const problem = (await response.json().catch(() => ({}))) as { title?: string; detail?: string };
      throw new ProblemError(response.status, problem.title ?? `HTTP ${response.status}`, problem.detail ?? "");
    }
    return (await response.json()) as T;
  }
}
