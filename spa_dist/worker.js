/**
 * The service worker of the dashboard. A push wakes it and says nothing, so it asks the server what waits, and shows that.
 * It answers no request of the page and keeps nothing, so nothing of it can be out of date.
 */
'use strict';

// For each try of a request: a connection that was kept over sleep or a change of the network leads nowhere.
const TIMEOUTS_MS = [2_500, 5_000, 12_500];
const AGAIN_MS = 1_000; // before a request is sent again that the browser has dropped
const ANSWER_TIMEOUT_MS = 25_000; // the server waits 15 seconds for a proof that the agent took an answer
const TAKEN_MS = 1_000; // for a page to say that it went to a place
const SHOWN = 4; // notifications that one push may add
const UNSAID = 'A session may need you'; // the title where the server did not say which one

/** Ends with the push that came last. An older answer would close what a newer one has shown. */
let shown = Promise.resolve();

self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
self.addEventListener('push', (event) => event.waitUntil((shown = shown.then(showNews, showNews))));
self.addEventListener('notificationclick', (event) => {
  event.notification.close();
  event.waitUntil(event.action ? answer(event.notification, Number(event.action)) : open(event.notification.data?.path ?? '/'));
});
self.addEventListener('pushsubscriptionchange', (event) => event.waitUntil(renew(event)));

/**
 * Asks for something of our own server, with the cookie of the person, and again if no answer came. A machine that wakes up
 * may just change its network, for which fetch has a TypeError. All tries have one key, by which the server knows that it is
 * the same request: what an answer that was lost called fresh is fresh in the next one.
 */
async function post(path, body, timeouts = TIMEOUTS_MS, key = crypto.randomUUID()) {
  const [timeout, ...rest] = timeouts;
  try {
    return await postOnce(path, body, timeout, key);
  } catch (error) {
    const isDropped = error instanceof TypeError;
    if (!rest.length || !(isDropped || error.name === 'TimeoutError')) throw error;
    if (isDropped) await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    return post(path, body, rest, key);
  }
}

async function postOnce(path, body, timeout, key) {
  const response = await fetch(path, {
    method: 'POST',
    cache: 'no-store',
    headers: { 'Content-Type': 'application/json', ...(key && { 'Idempotency-Key': key }) },
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

/**
 * Shows what is new and closes what is over. A push that shows nothing costs the browser's leave to push. While it is
 * still told that the server did not say what waits, all that waits and is not shown is new: that answer may have told it.
 */
async function showNews() {
  let news;
  try {
    news = await takeNews();
  } catch (error) {
    const isSignedOut = error.message === '401';
    const text = isSignedOut ? 'You are signed out: open the dashboard to sign in.' : 'The server did not say which: open the dashboard.';
    return show({ title: UNSAID, text });
  }
  showCount(news.filter(({ id }) => id).length);
  const present = await self.registration.getNotifications();
  for (const one of present) if (!news.some((other) => tagOf(other) === one.tag)) one.close();
  const isUntold = present.some(({ title }) => title === UNSAID);
  const isShown = (one) => present.some(({ tag }) => tag === tagOf(one));
  const fresh = news.filter((one) => one.fresh || (isUntold && !isShown(one))).slice(0, SHOWN);
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
