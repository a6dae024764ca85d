/** Opens what a session serves. Until the person asks for a port, nothing outside of the container reaches it. */
import { sentence } from '../../lib/api';
import { network } from '../../lib/api-network';
import { sessions } from '../../state/sessions.svelte';
import { ui } from '../../state/ui.svelte';
import type { Ports } from './ports.svelte';

/** What the server's policy for the pages of a closed session cannot forbid a browser. */
export const REMAINS =
  "The session's network is closed, and pages of its apps load from and send to the session alone. What no policy forbids: a hostile page can lead your browser to another address, let it load one in advance unseen, or connect by WebRTC.";

/** Whether the network of a session is closed, so that its apps must not use that of the browser. */
export const isConfined = (id: string): boolean => (sessions.get(id)?.network.mode ?? 'open') !== 'open';

/** The address of a port for one browser, or null if it could not be opened; the person is told then. */
export async function open(ports: Ports, port: number): Promise<string | null> {
  try {
    const url = await network.openPort(ports.id, port);
    void ports.look();
    return url;
  } catch (error) {
    ui.toast(`Port ${port} was not opened. ${sentence(error)}`, 'error');
    return null;
  }
}

/**
 * Opens a port in a tab of its own. The tab is made within the click, or a browser would keep it from opening, and it gets
 * its address when the server has answered. It has no way back to this page.
 */
export async function openTab(ports: Ports, port: number): Promise<void> {
  const tab = window.open('about:blank', '_blank');
  if (!tab) {
    ui.toast('The browser did not allow a new tab. Allow pop-ups for this page, or use the preview.', 'error');
    return;
  }
  tab.opener = null;
  const url = await open(ports, port);
  if (url) tab.location.replace(url);
  else tab.close();
}

export async function close(ports: Ports, port: number): Promise<void> {
  if (ports.shown === port) ports.shown = 0;
  try {
    await network.closePort(ports.id, port);
    await ports.look();
  } catch (error) {
    ui.toast(`Port ${port} was not closed. ${sentence(error)}`, 'error');
  }
}
