// Which view is open, kept in the address after the #, so that back, forward and links work.
import { chats } from './chats.svelte';

export const route = $state({ view: 'ask' as 'ask' | 'status', drawer: false, settings: false });

export function readAddress(): void {
  const parts = location.hash.replace(/^#\/?/, '').split('/');
  route.view = parts[0] === 'status' ? 'status' : 'ask';
  if (route.view === 'ask') chats.openId = parts[0] === 'c' ? (parts[1] ?? null) : null;
  route.drawer = false;
}

export const go = {
  chat(id: string | null): void {
    location.hash = id ? `#/c/${id}` : '#/';
  },
  status(): void {
    location.hash = '#/status';
  },
};

/** Puts a conversation that was just begun into the address, without a step back to the empty page of it. */
export function settle(): void {
  const wanted = route.view === 'status' ? '#/status' : chats.openId ? `#/c/${chats.openId}` : '#/';
  if (location.hash !== wanted && !(wanted === '#/' && location.hash === ''))
    history.replaceState(null, '', wanted);
}
