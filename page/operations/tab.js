// The operations tab: polls while it is visible and replaces the parts that changed. `element` is its host.
const POLL_MS = 5000, FINDINGS_MS = 60000;
let polledAt = 0, findingsAt = 0, busy = false, offline = false, offlineText = '';
const shown = new Map();

const call = (name, body) => fetch('ops/' + name, {
  cache: 'no-store',
  signal: AbortSignal.timeout(60000),
  ...(body === undefined ? {} : {
    method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify(body),
  }),
});

const setMessage = (text) => {
  const line = element.querySelector('[data-message]');
  if (line) line.textContent = text || '';
};

// All HTML comes from our server, which escapes foreign text.
const setFrame = (kind, html) => {
  const host = element.querySelector('#ops');
  if (host.dataset.kind === kind) return;
  host.dataset.kind = kind;
  host.innerHTML = html;
  shown.clear();
  findingsAt = 0;
};

const setParts = (parts) => {
  for (const [name, html] of Object.entries(parts)) {
    const place = element.querySelector(`[data-part="${name}"]`);
    if (!place || shown.get(name) === html) continue;
    const focused = place.contains(document.activeElement) && document.activeElement.dataset.do;
    place.innerHTML = html;
    shown.set(name, html);
    if (focused) place.querySelector(`[data-do="${focused}"]`)?.focus();
  }
};

// The server reads whole logs for this, which is slow: poll rarely, and do not wait for it.
const pollFindings = async () => {
  if (Date.now() - findingsAt < FINDINGS_MS) return;
  findingsAt = Date.now();
  try {
    const answer = await call('findings');
    if (answer.ok) setParts((await answer.json()).parts);
  } catch (error) {
    findingsAt = 0;
  }
};

const poll = async () => {
  if (busy) return;
  busy = true;
  polledAt = Date.now();
  try {
    const answer = await call('panel');
    const content = await answer.json();
    if (offline) setMessage('');
    offline = false;
    if (!answer.ok) return setFrame('login', content.html);
    offlineText = content.offline;
    setFrame('panel', content.frame);
    setParts(content.parts);
    pollFindings();
  } catch (error) {
    offline = true;
    setMessage(offlineText);
  } finally {
    busy = false;
  }
};

element.addEventListener('click', async (event) => {
  const button = event.target.closest('[data-do]');
  if (!button) return;
  button.disabled = true;
  try {
    setMessage((await (await call(button.dataset.do, {})).json()).message);
  } catch (error) {
    setMessage(offlineText);
  } finally {
    button.disabled = false;
    polledAt = 0;
  }
});

element.addEventListener('submit', async (event) => {
  event.preventDefault();
  const field = event.target.elements.password;
  try {
    const answer = await call('login', {password: field.value});
    setMessage((await answer.json()).message);
    if (!answer.ok) field.select();
  } finally {
    polledAt = 0;
  }
});

const timer = setInterval(() => {
  if (!element.isConnected) return clearInterval(timer);
  if (element.offsetParent && !document.hidden && Date.now() - polledAt > POLL_MS) poll();
}, 250);
poll();
