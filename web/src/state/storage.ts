// Opens the browser's storage once for everybody. Null where the browser keeps nothing.
import { Store } from '$lib/store/db';

let opened: Promise<Store | null> | undefined;

export function store(): Promise<Store | null> {
  opened ??= Store.open().catch(() => null);
  return opened;
}
