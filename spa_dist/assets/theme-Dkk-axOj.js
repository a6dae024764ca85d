// Runs before the first paint, so that a chosen theme never flashes. The key is the one of state/preferences.svelte.ts.
try {
  const chosen = JSON.parse(localStorage.getItem('clincus.theme') ?? '"system"');
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
} catch {
  // A browser that forbids storage, or a value that is not ours: the system's theme it is.
}
