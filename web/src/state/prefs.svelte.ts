// What this person chose, kept in the browser: language, look, how to answer. The key only if they say so.
import type { Dictionary } from '$lib/i18n/dictionary';
import { en } from '$lib/i18n/en';
import { zh } from '$lib/i18n/zh';

export type Lang = 'en' | 'zh';
export type Theme = 'system' | 'light' | 'dark';

export const LANGUAGES: Record<Lang, Dictionary> = { en, zh };
const PLACE = 'sightline.prefs';

interface Kept {
  lang: Lang | 'auto';
  theme: Theme;
  steady: boolean;
  maxTokens: number | null;
  model: string | null;
  compare: string | null;
  demoHidden: boolean;
  keepKey: boolean;
  key?: string;
}

const DEFAULTS: Kept = {
  lang: 'auto',
  theme: 'system',
  steady: true,
  maxTokens: null,
  model: null,
  compare: null,
  demoHidden: false,
  keepKey: false,
};

function read(): Kept {
  try {
    return { ...DEFAULTS, ...(JSON.parse(localStorage.getItem(PLACE) ?? '{}') as Partial<Kept>) };
  } catch {
    return { ...DEFAULTS };
  }
}

const fromBrowser = (): Lang =>
  (navigator.languages ?? [navigator.language])
    .find((one) => /^(zh|en)/i.test(one))
    ?.toLowerCase()
    .startsWith('zh')
    ? 'zh'
    : 'en';

const first = read();
export const prefs = $state<Kept>({ ...first, key: undefined });

/** The API key. In memory, and in the browser's storage only while `prefs.keepKey` is on. */
export const secret = $state({ key: first.keepKey ? (first.key ?? '') : '' });

const lang = $derived<Lang>(prefs.lang === 'auto' ? fromBrowser() : prefs.lang);
export const currentLang = (): Lang => lang;

/** The words of the language chosen. Reading it in a component follows changes. */
export const words = (): Dictionary => LANGUAGES[lang];

/** Keeps storage and the document in step with the choices; called once, inside an effect root. */
export function follow(): void {
  $effect(() => {
    document.documentElement.lang = lang === 'zh' ? 'zh-CN' : 'en';
  });
  $effect(() => {
    if (prefs.theme === 'system') delete document.documentElement.dataset['theme'];
    else document.documentElement.dataset['theme'] = prefs.theme;
  });
  $effect(() => {
    const kept: Kept = { ...$state.snapshot(prefs), key: prefs.keepKey ? secret.key : undefined };
    try {
      localStorage.setItem(PLACE, JSON.stringify(kept));
    } catch {
      // a browser that keeps nothing: the choices last until the page is closed
    }
  });
}
