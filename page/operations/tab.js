// The operations tab: asks while it can be seen, and puts in place what has changed. `element` is its host.
const EVERY = 5000, FINDINGS = 60000;
let asked = 0, examined = 0, busy = false, away = false, awayWords = '';
const shown = new Map();

const call = (name, body) => fetch('ops/' + name, {
  cache: 'no-store',
  signal: AbortSignal.timeout(60000),
  ...(body === undefined ? {} : {
    method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify(body),
  }),
});

const tell = (words) => {
  const line = element.querySelector('[data-told]');
  if (line) line.textContent = words || '';
};

// All HTML here is made by our server, which escapes what is not its own.
const begin = (kind, html) => {
  const host = element.querySelector('#ops');
  if (host.dataset.kind === kind) return;
  host.dataset.kind = kind;
  host.innerHTML = html;
  shown.clear();
  examined = 0;
};

const fill = (parts) => {
  for (const [name, html] of Object.entries(parts)) {
    const place = element.querySelector(`[data-part="${name}"]`);
    if (!place || shown.get(name) === html) continue;
    const held = place.contains(document.activeElement) && document.activeElement.dataset.do;
    place.innerHTML = html;
    shown.set(name, html);
    if (held) place.querySelector(`[data-do="${held}"]`)?.focus();
  }
};

// Reading whole logs takes its time: it is asked for seldom, and nothing waits for it.
const examine = async () => {
  if (Date.now() - examined < FINDINGS) return;
  examined = Date.now();
  try {
    const answer = await call('findings');
    if (answer.ok) fill((await answer.json()).parts);
  } catch (error) {
    examined = 0;
  }
};

const ask = async () => {
  if (busy) return;
  busy = true;
  asked = Date.now();
  try {
    const answer = await call('panel');
    const told = await answer.json();
    if (away) tell('');
    away = false;
    if (!answer.ok) return begin('closed', told.html);
    awayWords = told.away;
    begin('open', told.frame);
    fill(told.parts);
    examine();
  } catch (error) {
    away = true;
    tell(awayWords);
  } finally {
    busy = false;
  }
};

element.addEventListener('click', async (event) => {
  const button = event.target.closest('[data-do]');
  if (!button) return;
  button.disabled = true;
  try {
    tell((await (await call(button.dataset.do, {})).json()).told);
  } catch (error) {
    tell(awayWords);
  } finally {
    button.disabled = false;
    asked = 0;
  }
});

element.addEventListener('submit', async (event) => {
  event.preventDefault();
  const field = event.target.elements.password;
  try {
    const answer = await call('login', {password: field.value});
    tell((await answer.json()).told);
    if (!answer.ok) field.select();
  } finally {
    asked = 0;
  }
});

const look = setInterval(() => {
  if (!element.isConnected) return clearInterval(look);
  if (element.offsetParent && !document.hidden && Date.now() - asked > EVERY) ask();
}, 250);
ask();
