// Wiring: theme, copy buttons, sections.
function theme() {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';
  const button = byId('theme');
  const say = () => button.setAttribute('aria-pressed', String(dark()));
  try { const kept = localStorage.getItem('azeotrope-theme'); if (kept === 'dark' || kept === 'light') root.dataset.theme = kept; } catch { /* storage is off */ }
  button.addEventListener('click', () => {
    root.dataset.theme = dark() ? 'light' : 'dark';
    try { localStorage.setItem('azeotrope-theme', root.dataset.theme); } catch { /* storage is off */ }
    say();
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', say);
  say();
}

function copyButtons() {
  for (const button of document.querySelectorAll('[data-copy]')) {
    const source = button.closest('.copyable').querySelector('pre');
    button.addEventListener('click', async () => {
      let done = true;
      try { await navigator.clipboard.writeText(source.textContent); } catch { done = false; }
      if (!done) getSelection().selectAllChildren(source);
      button.textContent = done ? 'Copied' : 'Selected';
      setTimeout(() => { button.textContent = 'Copy'; }, 1500);
    });
  }
}

theme();
copyButtons();
for (const part of [tradeoff, equalTable, utilityView, gainsView, editsView, recoveryView, governanceView, matrixView, detectabilityView, tracesView, lossesView, costTable, resultsTable]) part();
document.documentElement.dataset.ready = 'yes';
