// Writes a question as a command or a program that a person can run. Pictures are read from files, by name.
import type { Call, Inline } from './body';

/** Stands in for a file's content while the body is made. Braces cannot occur in base64, nor in an encoded name. */
export const placeholder: Inline = async (media) =>
  `data:${media.mime};base64,{{${encodeURIComponent(media.name)}}}`;

const shellQuoted = (name: string): string => `'${name.replaceAll("'", "'\\''")}'`;

/** A shell command. The body goes in by a here-document, so no quoting of the words is needed. */
export function curl(call: Call, address: string, key: boolean): string {
  const auth = key ? ` -H "Authorization: Bearer $SIGHTLINE_KEY"` : '';
  const escaped = JSON.stringify(call.body, null, 1).replace(/[\\$`]/g, '\\$&');
  const body = escaped.replace(
    /\{\{([^}]+)\}\}/g,
    (_, name: string) => `$(base64 -w0 -- ${shellQuoted(decodeURIComponent(name))})`,
  );
  return `curl -N ${address} -H 'Content-Type: application/json'${auth} -d @- <<BODY\n${body}\nBODY\n`;
}

export function python(call: Call, address: string, key: boolean): string {
  const lines = ['import base64', key ? 'import os' : '', '', 'import requests', '', ''].filter(
    (line, at) => line || at !== 1,
  );
  const chat = call.path === 'v1/chat/completions';
  const body = pythonValue({ ...call.body, ...(chat && { stream: false, stream_options: undefined }) }, 0);
  const auth = key ? `, headers={"Authorization": f"Bearer {os.environ['SIGHTLINE_KEY']}"}` : '';
  const url = address.replace(/_stream$/, '');
  const show = chat ? '["choices"][0]["message"]["content"]' : '["result"]["answer"]';
  return [
    ...lines,
    'def inline(path, mime):',
    '    with open(path, "rb") as file:',
    '        return f"data:{mime};base64," + base64.b64encode(file.read()).decode()',
    '',
    '',
    `body = ${body}`,
    `answer = requests.post(${JSON.stringify(url)}, json=body${auth}, timeout=600)`,
    'answer.raise_for_status()',
    `print(answer.json()${show})`,
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
