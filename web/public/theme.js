// Sets theme and language before the first paint. A file of its own, because the page allows no inline script.
(() => {
  const root = document.documentElement;
  try {
    const prefs = JSON.parse(localStorage.getItem('sightline.prefs') || '{}');
    if (prefs.theme === 'light' || prefs.theme === 'dark') root.dataset.theme = prefs.theme;
    const lang = prefs.lang === 'en' || prefs.lang === 'zh' ? prefs.lang : navigator.language;
    root.lang = /^zh/i.test(lang) ? 'zh-CN' : 'en';
  } catch {
    root.lang = 'en';
  }
})();
