// Turns an answer's markdown into safe HTML. The only maker of HTML in the page; everything passes DOMPurify.
import DOMPurify from 'dompurify';
import MarkdownIt from 'markdown-it';
import { mathRule } from './math';

type TypesetMath = (tex: string, display: boolean) => string;
let typeset: TypesetMath | null = null;

/** Loads KaTeX when a text first needs it. Resolves to whether formulas look different from now on. */
export async function loadMath(text: string): Promise<boolean> {
  if (typeset || !/\$|\\\(|\\\[/.test(text)) return false;
  const katex = (await import('katex')).default;
  // MathML only: KaTeX's HTML needs inline styles, which the page's security policy forbids.
  typeset = (tex, display) =>
    katex.renderToString(tex, {
      displayMode: display,
      output: 'mathml',
      throwOnError: false,
      trust: false,
      maxExpand: 200,
    });
  return true;
}

const md = new MarkdownIt({ html: false, linkify: false, breaks: true });
md.use(mathRule);
// A picture in an answer would be an address outside: its text is enough.
md.renderer.rules['image'] = (tokens, index) => md.utils.escapeHtml(tokens[index]?.content ?? '');
md.renderer.rules['math_inline'] = (tokens, index) => formula(tokens[index]?.content ?? '', false);
md.renderer.rules['math_block'] = (tokens, index) => formula(tokens[index]?.content ?? '', true);
md.renderer.rules['table_open'] = () => '<div class="table-scroll" tabindex="0"><table>';
md.renderer.rules['table_close'] = () => '</table></div>';
for (const rule of ['th_open', 'td_open']) {
  md.renderer.rules[rule] = (tokens, index) => {
    const token = tokens[index];
    const side = /right|center/.exec(String(token?.attrGet('style') ?? ''))?.[0];
    return `<${token?.tag}${side ? ` class="${side}"` : ''}>`;
  };
}
md.renderer.rules.fence = (tokens, index) => {
  const token = tokens[index];
  const language = /^[\w+#.-]{1,20}/.exec(token?.info ?? '')?.[0] ?? '';
  return `<figure class="code"><figcaption>${language}</figcaption><pre tabindex="0"><code>${md.utils.escapeHtml(token?.content ?? '')}</code></pre></figure>`;
};

function formula(tex: string, display: boolean): string {
  if (typeset) return typeset(tex, display);
  return `<code class="tex">${md.utils.escapeHtml(tex)}</code>`;
}

const ALLOWED = {
  USE_PROFILES: { html: true, mathMl: true },
  FORBID_ATTR: ['style', 'id', 'name'],
  FORBID_TAGS: ['style', 'img', 'form', 'input', 'button', 'video', 'audio'],
};

DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  if (node.tagName !== 'A') return;
  node.setAttribute('rel', 'noopener noreferrer nofollow');
  node.setAttribute('target', '_blank');
});

/** A piece of the text that leads somewhere else: to a mark on the picture, a page, a moment of a video. */
export interface Link {
  start: number;
  end: number;
  to: 'mark' | 'page' | 'second';
  value: number;
  label: string;
}

// Private-use letters mark a link's place while markdown and DOMPurify do their work; a text's own ones are replaced.
const [OPEN, CLOSE] = ['\uE000', '\uE001'];

export function html(text: string, links: Link[] = []): string {
  let source = '';
  let at = 0;
  links.forEach((link, index) => {
    if (link.start < at) return;
    source += clean(text.slice(at, link.start)) + OPEN + String(index) + CLOSE;
    at = link.end;
  });
  source += clean(text.slice(at));
  const safe = DOMPurify.sanitize(md.render(source), ALLOWED);
  return safe.replace(/\uE000(\d+)\uE001/g, (_, index: string) => {
    const link = links[Number(index)];
    if (!link) return '';
    return `<button type="button" class="ref" data-to="${link.to}" data-value="${link.value}">${md.utils.escapeHtml(link.label)}</button>`;
  });
}

const clean = (text: string): string => text.replace(/[\uE000\uE001]/g, '\uFFFD');
