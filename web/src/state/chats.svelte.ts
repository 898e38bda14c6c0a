// The conversations: which there are, which is open, and keeping them in the browser.
import { newId, running, type Chat, type Turn } from '$lib/types';
import { dataUrl } from '$lib/media/load';
import { titleOf } from '$lib/store/search';
import { bundle, unbundle } from '$lib/store/transfer';
import { blobOf, forget, keep } from './files.svelte';
import { store } from './storage';

export const chats = $state({
  list: [] as Chat[],
  openId: null as string | null,
  loaded: false,
  /** Whether this browser keeps conversations at all. */
  kept: true,
  full: false,
});

export const openChat = (): Chat | null => chats.list.find((chat) => chat.id === chats.openId) ?? null;

export async function loadChats(): Promise<void> {
  const db = await store();
  chats.kept = db !== null;
  const found = (await db?.chats().catch(() => [])) ?? [];
  for (const answer of found.flatMap((chat) => chat.turns.flatMap((turn) => turn.answers)))
    if (running(answer) || answer.state === 'held') answer.state = 'stopped';
  const fresh = new Set(chats.list.map((chat) => chat.id));
  chats.list = [...chats.list, ...found.filter((chat) => !fresh.has(chat.id))];
  chats.loaded = true;
}

/** The conversation that is open, or a new one, which is open then. */
export function currentChat(): Chat {
  const open = openChat();
  if (open) return open;
  const now = Date.now();
  chats.list.unshift({ id: newId(), title: '', created: now, updated: now, turns: [] });
  const chat = chats.list[0] as Chat;
  chats.openId = chat.id;
  return chat;
}

export function addTurn(chat: Chat, turn: Turn): Turn {
  chat.turns.push(turn);
  touch(chat);
  return chat.turns[chat.turns.length - 1] as Turn;
}

export function touch(chat: Chat): void {
  chat.updated = Date.now();
  if (!chat.named) {
    const first = chat.turns[0];
    chat.title = titleOf(first?.text ?? '', first?.media[0]?.name ?? '');
  }
  void save(chat);
}

/** Keeps a conversation; its files are kept when they are added. */
export async function save(chat: Chat): Promise<void> {
  try {
    await (await store())?.put($state.snapshot(chat) as Chat);
    chats.full = false;
  } catch (error) {
    chats.full = error instanceof DOMException && error.name === 'QuotaExceededError';
  }
}

export async function saveFile(id: string, blob: Blob): Promise<void> {
  keep(id, blob);
  try {
    await (await store())?.putFile(id, blob);
  } catch {
    chats.full = true;
  }
}

export function rename(chat: Chat, title: string): void {
  chat.title = title.trim();
  chat.named = chat.title !== '';
  touch(chat);
}

/** Takes a conversation out of the list and out of storage. Returns what puts it back. */
export async function remove(chat: Chat): Promise<() => Promise<void>> {
  const files = await Promise.all(
    chat.turns.flatMap((turn) => turn.media).map(async (media) => [media.id, await blobOf(media)] as const),
  );
  const plain = $state.snapshot(chat) as Chat;
  chats.list = chats.list.filter((one) => one.id !== chat.id);
  if (chats.openId === chat.id) chats.openId = null;
  await (await store())?.remove(plain);
  return async () => {
    chats.list = [...chats.list, plain].sort((a, b) => b.updated - a.updated);
    await save(plain);
    await Promise.all(files.map(([id, blob]) => blob && saveFile(id, blob)));
  };
}

export async function removeAll(): Promise<void> {
  for (const media of chats.list.flatMap((chat) => chat.turns.flatMap((turn) => turn.media)))
    forget(media.id);
  chats.list = [];
  chats.openId = null;
  await (await store())?.clear();
}

export async function exported(which: Chat[]): Promise<string> {
  const files: Record<string, string> = {};
  for (const media of which.flatMap((chat) => chat.turns.flatMap((turn) => turn.media))) {
    const blob = await blobOf(media);
    if (blob) files[media.id] = await dataUrl(blob);
  }
  return JSON.stringify(bundle($state.snapshot(which) as Chat[], files));
}

/** How many conversations came in; null when the text is no export. */
export async function imported(text: string): Promise<number | null> {
  const found = unbundle(text);
  if (!found) return null;
  for (const [id, url] of found.files) await saveFile(id, blobFrom(url));
  for (const chat of found.chats) await save(chat);
  chats.list = [...chats.list, ...found.chats].sort((a, b) => b.updated - a.updated);
  return found.chats.length;
}

/** A data URL as a blob, without `fetch`: the page's security policy allows connections to the server only. */
function blobFrom(url: string): Blob {
  const comma = url.indexOf(',');
  const bytes = Uint8Array.from(atob(url.slice(comma + 1)), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: /^data:([^;,]+)/.exec(url)?.[1] ?? '' });
}
