// The shape of GET /v1/status. Null: not known, or never measured.
import type { Progress } from '$lib/types';

export interface Status {
  object: 'status';
  state: 'healthy' | 'loading' | 'draining' | 'unhealthy';
  progress: string | null;
  version: string;
  uptime_s: number;
  models: { id: string; demo: boolean; precision: string | null; max_context: number | null }[];
  limits: {
    max_concurrency: number;
    max_queue: number;
    max_image_mb: number;
    max_image_side: number;
    max_images: number;
    max_body_mb: number;
  };
  running: number;
  waiting: number;
  requests: {
    id: string;
    task: string;
    age_s: number;
    prompt_tokens: number | null;
    completion_tokens: number;
    progress: Progress | null;
  }[];
  recent: { answers: number; first_token_s: number | null; tokens_per_s: number | null };
  totals: {
    answers: number;
    refused: number;
    prompt_tokens: number;
    cached_tokens: number;
    image_tokens: number;
    completion_tokens: number;
    pictures: number;
    pictures_cached: number;
  };
  kv: { blocks: number; used: number; kept: number; preemptions: number } | null;
  vision_cache_bytes: number | null;
  memory_bytes: number | null;
}
