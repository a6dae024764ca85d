/**
 * The service worker of the dashboard. A push wakes it and says nothing, so it asks the server what waits, and shows that.
 * It answers no request of the page and keeps nothing, so nothing of it can be out of date.
 */
'use strict';

const TIMEOUT_MS = 8_000;
const ANSWER_TIMEOUT_MS = 25_000; // the server waits 15 seconds for a proof that the agent took an answer
const TRIES = 3; // of a request, a second apart
const TAKEN_MS = 1_000; // for a page to say that it went to a place
const SHOWN = 4; // notifications that one push may add

self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
self.addEventListener('push', (event) => event.waitUntil(showNews()));
self.addEventListener('notificationclick', (event) => {
  event.notification.close();
  event.waitUntil(event.action ? answer(event.notification, Number(event.action)) : open(event.notification.data?.path ?? '/'));
});
self.addEventListener('pushsubscriptionchange', (event) => event.waitUntil(renew(event)));

/**
 * Asks for something of our own server, with the cookie of the person. A machine that wakes up may just change its network,
 * for which fetch has a TypeError: then it asks again.
 */
async function post(path, body, tries = TRIES) {
  try {
    return await postOnce(path, body);
  } catch (error) {
    if (!(error instanceof TypeError) || tries <= 1) throw error;
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    return post(path, body, tries - 1);
  }
}

async function postOnce(path, body, timeout = TIMEOUT_MS) {
  const response = await fetch(path, {
    method: 'POST',
    cache: 'no-store',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(timeout),
  });
  if (!response.ok) {
    const { error } = await response.json().catch(() => ({}));
    throw Object.assign(new Error(String(response.status)), { reason: error });
  }
  return response.json();
}

/** The id of a subscription at the server: the beginning of its endpoint's SHA-256. */
async function idOf(subscription) {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(subscription.endpoint));
  return [...new Uint8Array(digest).slice(0, 8)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

async function takeNews() {
  const subscription = await self.registration.pushManager.getSubscription();
  if (!subscription) throw new Error('no subscription');
  return post(`/api/push/subscriptions/${await idOf(subscription)}/news`, {});
}

/** Shows what is new and closes what is over. A push that shows nothing costs the browser's leave to push. */
async function showNews() {
  let news;
  try {
    news = await takeNews();
  } catch (error) {
    const isSignedOut = error.message === '401';
    const text = isSignedOut ? 'You are signed out: open the dashboard to sign in.' : 'The server did not say which: open the dashboard.';
    return show({ title: 'A session may need you', text });
  }
  showCount(news.filter(({ id }) => id).length);
  for (const shown of await self.registration.getNotifications()) {
    if (!news.some((one) => tagOf(one) === shown.tag)) shown.close();
  }
  const fresh = news.filter((one) => one.fresh).slice(0, SHOWN);
  // The newest comes last, on top.
  for (const one of fresh.reverse()) await show(one, one.silent);
  if (fresh.length > 0) return;
  await show(news[0] ?? { title: 'Nothing waits for you any more', text: '' }, true);
}

/** The number of sessions that wait, on the icon of the installed page, where the system has a place for it. */
function showCount(count) {
  self.navigator?.setAppBadge?.(count)?.catch(() => undefined);
}

function tagOf(news) {
  return news.id || news.state || 'clincus';
}

function show(news, silent = false) {
  return self.registration.showNotification(news.title, {
    body: news.text,
    tag: tagOf(news),
    icon: '/icon-192.png',
    badge: '/icon-192.png',
    data: { path: news.id ? `/sessions/${encodeURIComponent(news.id)}` : '/', news },
    actions: (news.answers ?? []).map((title, index) => ({ action: String(index + 1), title })),
    silent,
    renotify: !silent,
  });
}

/**
 * Chooses an option of the question that a notification shows. The server refuses it where another question is open by now.
 * It is sent once only, and what nobody saw arrive is told.
 */
async function answer({ data: { news } }, option) {
  const { id, name, text, number } = news;
  try {
    const path = `/api/sessions/${encodeURIComponent(id)}/answer`;
    const { result } = await postOnce(path, { option, question: text, number }, ANSWER_TIMEOUT_MS);
    if (result === 'answered') return;
    await show({ id, title: `${name}: answer unconfirmed`, text: 'It was typed, but the agent may not have taken it: look at the terminal.' });
  } catch (error) {
    const reason = error.message === '401' ? 'You are signed out: open the dashboard to sign in.' : error.reason;
    await show({ id, title: `${name} was not answered`, text: reason ?? 'The server did not say whether it came: look at the session.' });
  }
}

/** Leads the person to a place of the page: in a window that is open, else in a new one. */
async function open(path) {
  const windows = await self.clients.matchAll({ type: 'window', includeUncontrolled: true });
  const page = windows.find((one) => one.focused) ?? windows[0];
  if (!page || !(await takes(page, path))) return self.clients.openWindow(path);
  // A browser may refuse to bring a window to the front, as after a click that is some time ago.
  return page.focus().catch(() => self.clients.openWindow(path));
}

/** Whether the page in a window went to a place: that of the sign-in hears nothing, nor does one that is still loading. */
function takes(page, path) {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => resolve(true);
    setTimeout(() => resolve(false), TAKEN_MS);
    page.postMessage({ type: 'open', path }, [port2]);
  });
}

/** The browser has changed the subscription by itself: the server gets the new one in the old one's place. */
async function renew(event) {
  const old = event.oldSubscription;
  const fresh = event.newSubscription ?? (old && (await self.registration.pushManager.subscribe(old.options)));
  if (!fresh) return;
  await post('/api/push/subscriptions', { endpoint: fresh.endpoint, replaces: old ? await idOf(old) : '' });
}
