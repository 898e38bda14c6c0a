// Cuts a text stream into server-sent events. Knows nothing of what is in them.

export interface ServerEvent {
  event: string;
  data: string;
}

/** A reader that is fed text in any pieces and gives the events that are whole. Comments are dropped. */
export class EventReader {
  private rest = '';
  private event = '';
  private data: string[] = [];

  push(text: string): ServerEvent[] {
    this.rest += text;
    const found: ServerEvent[] = [];
    for (;;) {
      const end = this.rest.search(/\r\n|\n|\r/);
      // A lone \r at the very end may be the first half of \r\n.
      if (end < 0 || (this.rest[end] === '\r' && end === this.rest.length - 1)) return found;
      const line = this.rest.slice(0, end);
      this.rest = this.rest.slice(end + (this.rest.startsWith('\r\n', end) ? 2 : 1));
      const event = this.take(line);
      if (event) found.push(event);
    }
  }

  private take(line: string): ServerEvent | null {
    if (line === '') {
      const event = this.data.length ? { event: this.event || 'message', data: this.data.join('\n') } : null;
      this.event = '';
      this.data = [];
      return event;
    }
    const colon = line.indexOf(':');
    if (colon === 0) return null;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'event') this.event = value;
    if (field === 'data') this.data.push(value);
    return null;
  }
}

/** The events of a response's body, as they come. */
export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
