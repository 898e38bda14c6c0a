// Keeps conversations and their files in this browser. Knows IndexedDB, which nothing else does.
import { openDB, type DBSchema, type IDBPDatabase } from 'idb';
import type { Chat } from '$lib/types';

interface Kept extends DBSchema {
  chats: { key: string; value: Chat; indexes: { updated: number } };
  files: { key: string; value: { id: string; blob: Blob } };
}

export class Store {
  private constructor(private readonly db: IDBPDatabase<Kept>) {}

  /** Raises when the browser keeps nothing, as some do in private windows. */
  static async open(name = 'sightline'): Promise<Store> {
    return new Store(
      await openDB<Kept>(name, 1, {
        upgrade(db) {
          db.createObjectStore('chats', { keyPath: 'id' }).createIndex('updated', 'updated');
          db.createObjectStore('files', { keyPath: 'id' });
        },
      }),
    );
  }

  /** Newest first. */
  async chats(): Promise<Chat[]> {
    return (await this.db.getAllFromIndex('chats', 'updated')).reverse();
  }

  async put(chat: Chat): Promise<void> {
    await this.db.put('chats', chat);
  }

  async putFile(id: string, blob: Blob): Promise<void> {
    await this.db.put('files', { id, blob });
  }

  async file(id: string): Promise<Blob | null> {
    return (await this.db.get('files', id))?.blob ?? null;
  }

  async remove(chat: Chat): Promise<void> {
    const work = this.db.transaction(['chats', 'files'], 'readwrite');
    const files = chat.turns.flatMap((turn) => turn.media);
    await Promise.all([
      work.objectStore('chats').delete(chat.id),
      ...files.map((media) => work.objectStore('files').delete(media.id)),
      work.done,
    ]);
  }

  async clear(): Promise<void> {
    await Promise.all([this.db.clear('chats'), this.db.clear('files')]);
  }
}
