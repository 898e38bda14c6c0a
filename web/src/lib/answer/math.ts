// Teaches markdown-it the four ways models write formulas: $…$, $$…$$, \(…\) and \[…\]. Knows no typesetting.
import type { MarkdownIt } from 'markdown-it';

const PAIRS = [
  { open: '$$', close: '$$', display: true },
  { open: '\\[', close: '\\]', display: true },
  { open: '\\(', close: '\\)', display: false },
  { open: '$', close: '$', display: false },
] as const;

/** The formula that begins at `at`, or null. A price like $5 and $6 is none: see the spaces and digits around. */
export function formulaAt(text: string, at: number): { tex: string; end: number; display: boolean } | null {
  for (const { open, close, display } of PAIRS) {
    if (!text.startsWith(open, at)) continue;
    const start = at + open.length;
    const end = text.indexOf(close, start);
    if (end < 0) return null;
    const tex = text.slice(start, end);
    if (!tex.trim()) return null;
    if (open === '$' && (/^\s|\s$|\n/.test(tex) || /\d/.test(text[end + 1] ?? ''))) return null;
    return { tex: tex.trim(), end: end + close.length, display };
  }
  return null;
}

export function mathRule(md: MarkdownIt): void {
  md.inline.ruler.before('escape', 'math', (state, silent) => {
    const first = state.src[state.pos];
    if (first !== '$' && first !== '\\') return false;
    const found = formulaAt(state.src, state.pos);
    if (!found) return false;
    if (!silent) {
      const token = state.push(found.display ? 'math_block' : 'math_inline', 'math', 0);
      token.content = found.tex;
    }
    state.pos = found.end;
    return true;
  });
}
