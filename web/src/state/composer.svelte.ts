// The question being put together: words, files, task and its options.
import { EMPTY_FIELDS, schemaOf, type Field } from '$lib/answer/schema';
import { READS } from '$lib/api/body';
import { load, lookIntoPdf, Unsendable } from '$lib/media/load';
import { pagesOf } from '$lib/media/pages';
import { newId, type Media, type MediaKind, type Task } from '$lib/types';
import { currentChat, openChat, saveFile } from './chats.svelte';
import { submit } from './asking.svelte';
import { blobOf, forget, keepPassword } from './files.svelte';
import { announce, toast } from './notices.svelte';
import { words } from './prefs.svelte';
import { limits } from './server.svelte';

export interface Item {
  id: string;
  name: string;
  /** Null while it is being prepared. */
  media: Media | null;
}

export const composer = $state({
  text: '',
  task: 'chat' as Task,
  items: [] as Item[],
  fields: EMPTY_FIELDS as Field[],
  schemaText: null as string | null,
});

export async function addFiles(files: Iterable<File>): Promise<void> {
  await Promise.all([...files].map((file) => addFile(file, file.name || words().camera.photo)));
}

export async function addFile(file: Blob, name: string): Promise<void> {
  if (composer.items.length >= limits().images) {
    toast(words().media.many(limits().images), { kind: 'bad' });
    return;
  }
  const id = newId();
  composer.items.push({ id, name, media: null });
  try {
    const { media, blob } = await load(file, name, limits());
    const item = composer.items.find((one) => one.id === id);
    if (!item) return; // taken out while it was prepared
    await saveFile(media.id, blob);
    item.media = media;
    suggestTask(media.kind);
    announce(words().media.added(name));
  } catch (error) {
    composer.items = composer.items.filter((one) => one.id !== id);
    toast(error instanceof Unsendable ? explain(error) : words().media.broken(name), { kind: 'bad' });
  }
}

function explain(error: Unsendable): string {
  const t = words().media;
  const size = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MB`;
  if (error.fault === 'large') return t.large(error.fileName, size(error.size), size(error.limit));
  return t[error.fault](error.fileName);
}

/** Tries a password on a locked PDF. Returns whether it opened. */
export async function unlock(media: Media, password: string): Promise<boolean> {
  const blob = await blobOf(media);
  try {
    if (blob) Object.assign(media, await lookIntoPdf(blob, password));
  } catch {
    return false;
  }
  keepPassword(media, password);
  return true;
}

/** A file that the chosen task cannot read chooses the task that is made for it. */
function suggestTask(kind: MediaKind): void {
  const fits = composer.task === 'chat' ? kind === 'image' : READS[composer.task].kind === kind;
  if (fits || composer.items.filter((item) => item.media).length > 1) return;
  composer.task = kind === 'pdf' ? 'doc_analyze' : kind === 'video' ? 'video_qa' : 'chat';
}

export function removeItem(id: string): void {
  const item = composer.items.find((one) => one.id === id);
  composer.items = composer.items.filter((one) => one.id !== id);
  if (item?.media) forget(item.media.id);
  if (item) announce(words().media.removed(item.name));
}

export function moveItem(id: string, to: number): void {
  const from = composer.items.findIndex((one) => one.id === id);
  const item = composer.items[from];
  if (!item || to < 0 || to >= composer.items.length || from === to) return;
  composer.items.splice(from, 1);
  composer.items.splice(to, 0, item);
  announce(words().media.moved(item.name, to + 1, composer.items.length));
}

/** Why the question cannot be asked yet, in words; empty when it can. */
export function obstacle(): string {
  const t = words();
  const { task, items, text } = composer;
  if (items.some((item) => !item.media)) return t.media.preparing;
  const media = items.flatMap((item) => item.media ?? []);
  const earlier = openChat()?.turns.flatMap((turn) => turn.media) ?? [];
  const used = media.length ? media : earlier;
  const reads = task === 'chat' ? null : READS[task];
  if (reads && !used.some((one) => one.kind === reads.kind)) return t.dock.needsMedia[reads.kind];
  if (reads?.single && media.filter((one) => one.kind === reads.kind).length > 1) return t.dock.oneMedia;
  const locked = media.find((one) => one.locked && !one.pages);
  if (locked) return t.media.passwordNeeded(locked.name);
  const bad = media.find((one) => one.pages && pagesOf(one.range ?? '', one.pages) === null);
  if (bad) return t.media.rangeBad(bad.pages ?? 0);
  if (task === 'extract' && !currentSchema())
    return composer.schemaText === null ? t.schema.none : t.schema.bad;
  return text.trim() ? '' : t.tasks[task].needsText;
}

/** The schema of `extract` as JSON text; null when it is not one yet. */
export const currentSchema = (): string | null => schemaOf(composer.schemaText ?? composer.fields);

/** Asks, and clears the words and files. Returns the obstacle, if there is one. */
export function send(): string {
  const why = obstacle();
  if (why) return why;
  const { task } = composer;
  submit(currentChat(), {
    id: newId(),
    task,
    text: composer.text.trim(),
    media: composer.items.flatMap((item) => (item.media ? [$state.snapshot(item.media) as Media] : [])),
    ...(task === 'extract' && { schema: currentSchema() ?? '' }),
  });
  composer.text = '';
  composer.items = [];
  return '';
}

/** A sample picture with its question, ready to be asked. */
export async function useSample(file: string, name: string, question: string): Promise<void> {
  const response = await fetch(new URL(`samples/${file}`, document.baseURI));
  composer.task = 'chat';
  composer.text = question;
  await addFile(await response.blob(), `${name}.png`);
}
