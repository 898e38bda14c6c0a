// Asks: one question of a conversation at a time, the next ones held until it is answered.
import { ask } from '$lib/api/client';
import { call, type Asking } from '$lib/api/body';
import { troubleOf } from '$lib/problems';
import { Refused } from '$lib/api/read';
import { running, type Answer, type Chat, type Task, type Turn } from '$lib/types';
import { addTurn, save, touch } from './chats.svelte';
import { FileGone, inline, passwordOf } from './files.svelte';
import { announce } from './notices.svelte';
import { prefs, secret, words } from './prefs.svelte';
import { refresh, server } from './server.svelte';

const SAVE_MS = 2000; // what a closed or reloaded page can lose of an answer
const LOADING_MS = 15 * 60_000;
const LOOK_MS = 1000;
const MORE_TRIES = 2; // 2002 also means short of memory, where asking on and on would not help
const aborts = new Map<string, AbortController>();

export const busy = (chat: Chat | null): boolean =>
  chat?.turns.some((turn) => turn.answers.some((answer) => running(answer))) ?? false;

export const asking = (model: string | null): Asking => ({
  model,
  temperature: prefs.steady ? 0 : null,
  maxTokens: prefs.maxTokens,
  passwordOf,
});

const fresh = (model: string | null): Answer => ({ model, state: 'held', text: '', pieces: 0, startedAt: 0 });

/** The models to ask: the chosen one, and a second one while two are compared. A task names none, so the server chooses. */
function models(task: Task): (string | null)[] {
  if (task !== 'chat') return [null];
  const known = (id: string | null) => (id && server.models.some((model) => model.id === id) ? id : null);
  const first = known(prefs.model);
  const second = known(prefs.compare);
  if (!second || second === first) return [first];
  return [first ?? server.models.find((model) => model.id !== second)?.id ?? null, second];
}

/** Adds a question. It is asked at once, or after the answers still running. */
export function submit(chat: Chat, turn: Omit<Turn, 'answers'>): void {
  addTurn(chat, { ...turn, answers: models(turn.task).map(fresh) });
  void next(chat);
}

/** Asks the first held question, unless one is being answered. */
async function next(chat: Chat): Promise<void> {
  if (busy(chat)) return;
  const turn = chat.turns.find((one) => one.answers.some((answer) => answer.state === 'held'));
  if (!turn) return;
  const abort = new AbortController();
  aborts.set(turn.id, abort);
  announce(words().turn.thinking);
  const saving = setInterval(() => void save(chat), SAVE_MS);
  await Promise.all(
    turn.answers.filter((answer) => answer.state === 'held').map((answer) => run(chat, turn, answer, abort)),
  );
  clearInterval(saving);
  if (aborts.get(turn.id) === abort) aborts.delete(turn.id);
  touch(chat);
  announce(outcome(turn));
  void next(chat);
}

function outcome(turn: Turn): string {
  const t = words().turn;
  const failed = turn.answers.find((answer) => answer.state === 'failed');
  if (failed)
    return failed.problem
      ? `${words().troubles[troubleOf(failed.problem)]} ${failed.problem.message}`
      : t.stopped;
  return turn.answers.some((answer) => answer.state === 'stopped') ? t.stopped : t.done;
}

async function run(chat: Chat, turn: Turn, answer: Answer, abort: AbortController): Promise<void> {
  answer.state = 'waiting';
  answer.startedAt = performance.now();
  for (let left = MORE_TRIES; ; left -= 1) {
    try {
      const request = await call(chat, turn, asking(answer.model), inline);
      await ask(request, secret.key, answer, abort.signal);
      answer.state = 'done';
    } catch (error) {
      if (left && (await modelCame(error, answer, abort.signal))) continue;
      fail(answer, error, abort.signal.aborted);
    }
    break;
  }
  const only = server.models.length === 1 ? server.models[0]?.id : undefined;
  answer.stats = {
    ...answer.stats,
    model: answer.stats?.model ?? answer.model ?? only,
    totalMs: answer.stats?.totalMs ?? performance.now() - answer.startedAt,
    firstTokenMs: answer.firstTokenAt && answer.firstTokenAt - answer.startedAt,
  };
  answer.progress = undefined;
}

/** Waits for a model that is being loaded; a question asked too early is not the asker's problem. */
async function modelCame(error: unknown, answer: Answer, signal: AbortSignal): Promise<boolean> {
  if (!(error instanceof Refused) || !['model_loading', '2002'].includes(error.problem.code)) return false;
  for (let waited = 0; waited < LOADING_MS && !signal.aborted; waited += LOOK_MS) {
    await refresh();
    if (server.state !== 'loading') return server.state === 'healthy';
    answer.progress = { stage: 'loading' };
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
  return false;
}

function fail(answer: Answer, error: unknown, aborted: boolean): void {
  if (aborted) {
    answer.state = 'stopped';
    return;
  }
  answer.state = 'failed';
  if (error instanceof Refused) answer.problem = error.problem;
  else if (error instanceof FileGone)
    answer.problem = { message: words().figure.gone, code: 'file_gone', status: 0 };
  else answer.problem = { message: '', code: 'connection_lost', status: 0 };
  if (troubleOf(answer.problem) === 'key') server.needsKey = true;
  void refresh();
}

/** Stops what is being answered; the connection closes and the server ends the work. Held questions stay held no longer. */
export function stop(chat: Chat): void {
  for (const turn of chat.turns) {
    for (const answer of turn.answers) if (answer.state === 'held') answer.state = 'stopped';
    aborts.get(turn.id)?.abort();
  }
}

/** Takes a held question out of the conversation. */
export function withdraw(chat: Chat, turn: Turn): void {
  chat.turns = chat.turns.filter((one) => one.id !== turn.id);
  void save(chat);
}

export function retry(chat: Chat, turn: Turn): void {
  turn.answers = models(turn.task).map(fresh);
  void next(chat);
}

/** Asks an earlier question with other words. What came after it is dropped: it answered something else. */
export function editAndAsk(chat: Chat, turn: Turn, text: string): void {
  stop(chat);
  const at = chat.turns.findIndex((one) => one.id === turn.id);
  chat.turns = chat.turns.slice(0, at + 1);
  const kept = chat.turns[at];
  if (!kept) return;
  kept.text = text;
  retry(chat, kept);
}
