// Copies text, and says that it did.
import { announce, toast } from '$state/notices.svelte';
import { words } from '$state/prefs.svelte';

/** Whether it worked. Over plain http browsers have no clipboard; an older way then still works. */
export async function copyText(text: string): Promise<boolean> {
  const worked = await navigator.clipboard?.writeText(text).then(
    () => true,
    () => false,
  );
  if (worked || byHand(text)) {
    announce(words().turn.copied);
    return true;
  }
  toast(words().turn.copyFailed, { kind: 'bad' });
  return false;
}

function byHand(text: string): boolean {
  const area = document.createElement('textarea');
  area.value = text;
  area.className = 'sr-only';
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const worked = document.execCommand('copy');
  area.remove();
  if (focused instanceof HTMLElement) focused.focus();
  return worked;
}

export function saveAs(content: Blob | string, name: string, type = 'application/json'): void {
  const blob = typeof content === 'string' ? new Blob([content], { type }) : content;
  const url = URL.createObjectURL(blob);
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
