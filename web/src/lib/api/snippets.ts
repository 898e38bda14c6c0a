// Writes a question as a command or a program that a person can run. Pictures are read from files, by name.
import type { Call, Inline } from './body';

/** Stands in for a file's content while the body is made. Braces cannot occur in base64, nor in an encoded name. */
export const placeholder: Inline = async (media) =>
  `data:${media.mime};base64,{{${encodeURIComponent(media.name)}}}`;

const PLACE = /\{\{([^}]+)\}\}/g;

/** The question as one asks it by hand: the answer comes whole, without what only a page makes use of. */
function byHand({ path, body }: Call): Record<string, unknown> {
  if (path === 'v1/chat/completions')
    return { ...body, stream: undefined, stream_options: undefined, logprobs: undefined };
  return { ...body, options: { ...(body['options'] as object), progress: undefined } };
}

/** A line that says which files have to lie where it is run; empty when none has. */
function about(call: Call): string {
  const names = [...JSON.stringify(call.body).matchAll(PLACE)].map(([, name = '']) =>
    decodeURIComponent(name),
  );
  const list = [...new Set(names)].join(', ').replace(/[\r\n]/g, ' ');
  return list && `# Reads from this folder: ${list}\n`;
}

const whole = (address: string): string => address.replace(/_stream$/, '');
const shellQuoted = (name: string): string => `'${name.replaceAll("'", "'\\''")}'`;

/** A shell command. The body goes in by a here-document, so no quoting of the words is needed. */
export function curl(call: Call, address: string, key: boolean): string {
  const auth = key ? ` -H "Authorization: Bearer $SIGHTLINE_KEY"` : '';
  const escaped = JSON.stringify(byHand(call), null, 1).replace(/[\\$`]/g, '\\$&');
  // Linux breaks base64 into lines and macOS has no option for it: `tr` works on both.
  const body = escaped.replace(
    PLACE,
    (_, name: string) => `$(base64 < ${shellQuoted(`./${decodeURIComponent(name)}`)} | tr -d '\\n')`,
  );
  return `${about(call)}curl ${whole(address)} -H 'Content-Type: application/json'${auth} -d @- <<BODY\n${body}\nBODY\n`;
}

/** A program for Python without anything installed. */
export function python(call: Call, address: string, key: boolean): string {
  const chat = call.path === 'v1/chat/completions';
  const files = about(call);
  return [
    ...(files ? [files.trimEnd(), 'import base64'] : []),
    'import json',
    ...(key ? ['import os'] : []),
    'import urllib.request',
    '',
    ...(files
      ? [
          '',
          'def inline(path, mime):',
          '    with open(path, "rb") as file:',
          '        return f"data:{mime};base64," + base64.b64encode(file.read()).decode()',
          '',
          '',
        ]
      : []),
    `body = ${pythonValue(byHand(call), 0)}`,
    'headers = {"Content-Type": "application/json"}',
    ...(key ? [`headers["Authorization"] = f"Bearer {os.environ['SIGHTLINE_KEY']}"`] : []),
    `request = urllib.request.Request(${JSON.stringify(whole(address))}, json.dumps(body).encode(), headers)`,
    'with urllib.request.urlopen(request, timeout=600) as reply:',
    `    print(json.load(reply)${chat ? '["choices"][0]["message"]["content"]' : '["result"]["answer"]'})`,
    '',
  ].join('\n');
}

function pythonValue(value: unknown, depth: number): string {
  const pad = '    '.repeat(depth + 1);
  const close = `\n${'    '.repeat(depth)}`;
  if (Array.isArray(value)) {
    if (!value.length) return '[]';
    return `[\n${value.map((item) => `${pad}${pythonValue(item, depth + 1)},`).join('\n')}${close}]`;
  }
  if (typeof value === 'object' && value !== null) {
    const entries = Object.entries(value).filter(([, item]) => item !== undefined);
    if (!entries.length) return '{}';
    return `{\n${entries.map(([key, item]) => `${pad}${JSON.stringify(key)}: ${pythonValue(item, depth + 1)},`).join('\n')}${close}}`;
  }
  if (typeof value === 'string') {
    const file = /^data:([^;]+);base64,\{\{([^}]+)\}\}$/.exec(value);
    return file
      ? `inline(${JSON.stringify(decodeURIComponent(file[2] ?? ''))}, ${JSON.stringify(file[1])})`
      : JSON.stringify(value);
  }
  if (value === null) return 'None';
  return value === true ? 'True' : value === false ? 'False' : String(value);
}
