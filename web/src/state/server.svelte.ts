// What the server says of itself: whether it is there, which models, its limits, and a short history for charts.
import { getJson } from '$lib/api/client';
import { DEFAULT_LIMITS, type Limits } from '$lib/media/kinds';
import type { Status } from '$lib/api/status';
import { secret } from './prefs.svelte';

export type ServerState = 'unknown' | 'healthy' | 'loading' | 'draining' | 'unhealthy' | 'down';

export interface Sample {
  at: number;
  status: Status;
}

const KEPT = 150; // samples: five minutes at the pace of the status view

export const server = $state({
  state: 'unknown' as ServerState,
  status: null as Status | null,
  models: [] as { id: string; demo: boolean }[],
  needsKey: false,
  history: [] as Sample[],
  /** Set while the status view is open: asks more often and keeps the answers. */
  watched: false,
});

export const limits = (): Limits => {
  const from = server.status?.limits;
  if (!from) return DEFAULT_LIMITS;
  return {
    imageBytes: from.max_image_mb * 2 ** 20,
    imageSide: from.max_image_side,
    images: from.max_images,
    bodyBytes: from.max_body_mb * 2 ** 20,
  };
};

export const isDemo = (): boolean => server.models.length > 0 && server.models.every((model) => model.demo);

export async function refresh(): Promise<void> {
  const status = await getJson<Status>('v1/status', secret.key);
  if (status?.object === 'status') {
    server.status = status;
    server.state = status.state;
    server.models = status.models.map(({ id, demo }) => ({ id, demo }));
    if (server.watched) server.history = [...server.history, { at: Date.now(), status }].slice(-KEPT);
    return;
  }
  const health = await getJson<{ status?: ServerState }>('health', secret.key);
  server.state = health ? (health.status ?? 'healthy') : 'down';
  if (health && !server.models.length) {
    const list = await getJson<{ data?: { id: string }[] }>('v1/models', secret.key);
    server.models = (list?.data ?? []).map(({ id }) => ({ id, demo: /demo/.test(id) }));
  }
}

const pace = (): number => (server.state !== 'healthy' ? 1500 : server.watched ? 2000 : 15_000);

/** Asks the server again and again, slower while all is well, not at all while the page is hidden. */
export function watch(): () => void {
  let timer: ReturnType<typeof setTimeout>;
  let ended = false;
  const round = async () => {
    clearTimeout(timer);
    if (!document.hidden) await refresh();
    if (!ended) timer = setTimeout(round, pace());
  };
  const again = () => void (document.hidden || round());
  document.addEventListener('visibilitychange', again);
  $effect(() => {
    if (server.watched) again();
  });
  void round();
  return () => {
    ended = true;
    clearTimeout(timer);
    document.removeEventListener('visibilitychange', again);
  };
}
