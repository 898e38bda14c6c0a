// Short messages: spoken to screen readers, or shown for a while at the bottom.
export interface Toast {
  id: number;
  text: string;
  kind: 'plain' | 'bad';
  action?: { label: string; run: () => void };
}

export const notices = $state({ spoken: '', toasts: [] as Toast[] });

let next = 1;

export function announce(text: string): void {
  // The same words twice are only read twice when they differ.
  notices.spoken = notices.spoken === text ? `${text}\u00a0` : text;
}

export function toast(
  text: string,
  options: { kind?: Toast['kind']; action?: Toast['action']; ms?: number } = {},
): void {
  const id = next++;
  notices.toasts.push({ id, text, kind: options.kind ?? 'plain', action: options.action });
  setTimeout(() => dismiss(id), options.ms ?? (options.kind === 'bad' ? 12_000 : 6_000));
}

export function dismiss(id: number): void {
  notices.toasts = notices.toasts.filter((one) => one.id !== id);
}
