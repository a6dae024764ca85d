/** Fits a terminal to an element now and whenever its size changes, once a frame. Returns a function that ends this. */
export function keepFitted(element: HTMLElement, fit: () => void): () => void {
  let frame = 0;
  const observer = new ResizeObserver(() => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(fit);
  });
  observer.observe(element);
  return () => {
    observer.disconnect();
    cancelAnimationFrame(frame);
  };
}
