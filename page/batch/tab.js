// The batch tab, second part: upload, the browser's own list of batches, polling while the tab is visible.
const API = 'v1/batches', STORED = 'ofa-batches', REMEMBERED = 100;
const POLL_MS = 1000, LONGEST_PAUSE_MS = 30000, CALL_MS = 15000, RESULTS_MS = 120000;
const FINAL = ['done', 'cancelled', 'failed', 'expired', 'unknown'];
const KNOWN = ['queued', 'running', ...FINAL];
const GONE = {404: 'unknown', 410: 'expired'};

const when = new Intl.DateTimeFormat(LANGUAGE, {dateStyle: 'medium', timeStyle: 'short'});
let mine = [];  // newest first: {id, name, when, status}; whoever knows an id can read its batch
let selected = '';  // an id
let selections = 0;  // how often one was selected, since an answer may arrive after another selection
let complete = false;  // whether all results of the selected batch are here
let upload = null;  // {file, key, request}: running, or refused and kept for "try again"
let pause = POLL_MS, polledAt = 0, checkedAt = 0, busy = false;

const call = (path, {method = 'GET', ms = CALL_MS} = {}) =>
  fetch(`${API}/${path}`, {method, cache: 'no-store', signal: AbortSignal.timeout(ms)});
const current = () => mine.find((batch) => batch.id === selected);
const stateOf = (batch) => KNOWN.includes(batch.status?.state) ? batch.status.state : 'queued';
const isFinal = (batch) => FINAL.includes(stateOf(batch));
const isGone = (batch) => Object.values(GONE).includes(stateOf(batch));
const parsed = (text) => {
  try {
    return JSON.parse(text) ?? {};
  } catch (error) {
    return {};
  }
};

// ---- the browser's list ----

const isBatch = (batch) => typeof batch?.name === 'string' && /^[0-9a-f]{32}$/.test(batch.id);

const readStored = () => {
  try {
    return JSON.parse(localStorage.getItem(STORED) ?? '[]').filter(isBatch);
  } catch (error) {
    return mine;
  }
};

// Another tab of this browser may have changed the stored list: change that one, not the one shown here.
const store = (change) => {
  mine = change(readStored()).slice(0, REMEMBERED);
  try {
    localStorage.setItem(STORED, JSON.stringify(mine));
  } catch (error) {
    find('[data-part="no-storage"]').hidden = false;
  }
};

const setStatus = (id, status) => {
  store((all) => all.map((batch) => batch.id === id ? {...batch, status} : batch));
  const batch = mine.find((one) => one.id === id);
  if (batch && isFinal(batch)) write('news', `${batch.name}: ${say(`state_${stateOf(batch)}`)}`);
};

// ---- what is shown ----

const finished = (rows) => rows.done + rows.failed;
const rowsText = ({rows}) => rows ? say('rows', {done: count(finished(rows)), total: count(rows.total)}) : '';

const leftText = (seconds) => {
  if (seconds < 90) return say('left_seconds', {s: Math.ceil(seconds)});
  const minutes = Math.ceil(seconds / 60);
  return minutes < 90 ? say('left_minutes', {m: minutes}) : say('left_hours', {h: Math.floor(minutes / 60), m: minutes % 60});
};

const factsOf = (batch) => {
  const {rows, seconds_left: left, expires} = batch.status;
  const facts = [rowsText(batch.status)];
  if (rows?.failed) facts.push(say('failed_rows', {count: count(rows.failed)}));
  if (stateOf(batch) === 'running' && left > 0) {
    facts.push(say('rate', {rate: ((rows.total - finished(rows)) / left).toPrecision(2)}), leftText(left));
  }
  if (expires && !isGone(batch)) facts.push(say('until', {when: when.format(expires * 1000)}));
  return facts.filter(Boolean).join(' · ');
};

const itemOf = (batch) => {
  const state = stateOf(batch), rows = batch.status.rows;
  const button = make('button', `batch-item batch-is-${state}`, make('strong', '', batch.name),
    make('span', '', [say(`state_${state}`), rowsText(batch.status)].filter(Boolean).join(' · ')),
    make('small', '', when.format(batch.when)));
  button.type = 'button';
  button.dataset.id = batch.id;
  button.style.setProperty('--done', rows?.total ? finished(rows) / rows.total : 0);
  if (batch.id === selected) button.setAttribute('aria-current', 'true');
  return make('li', '', button);
};

const showMine = () => {
  const list = find('[data-part="mine"]'), key = JSON.stringify([mine, selected]);
  if (list.dataset.shown === key) return;
  list.dataset.shown = key;
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.id : '';
  list.replaceChildren(...mine.map(itemOf));
  if (focused) list.querySelector(`[data-id="${focused}"]`)?.focus();
  find('.batch-mine').hidden = !mine.length;
};

const showOne = () => {
  const batch = current();
  find('.batch-one').hidden = !batch;
  if (!batch) return;
  const state = stateOf(batch), {rows, code} = batch.status;
  write('name', batch.name);
  write('state', say(`state_${state}`));
  find('.batch-state').className = `batch-state batch-is-${state}`;
  write('facts', factsOf(batch));
  find('.batch-one > progress').hidden = isFinal(batch);
  find('.batch-one > progress').value = rows?.total ? finished(rows) / rows.total : 0;
  const trouble = {expired: 'expired_text', unknown: 'unknown_text', failed: 'failed_text'}[state];
  write('trouble', trouble ? say(trouble, {code}) : pause > POLL_MS ? say('retrying') : '');
  find('[data-part="results"]').hidden = isGone(batch);
  find('[data-do="cancel"]').hidden = isFinal(batch);
  find('table').setAttribute('aria-label', say('table', {name: batch.name}));
  for (const link of element.querySelectorAll('[data-format]')) {
    link.hidden = isGone(batch);
    link.href = `${API}/${batch.id}/results?format=${link.dataset.format}`;
  }
};

const show = () => {
  showMine();
  showOne();
};

const select = (id) => {
  selected = id;
  selections += 1;
  complete = false;
  polledAt = 0;
  clearResults(`${API}/${id}/pictures/`);
  showResults();
  show();
};

// ---- polling ----

const refresh = async (id) => {
  const answer = await call(id);
  if (answer.ok) return setStatus(id, await answer.json());
  if (!(answer.status in GONE)) throw new Error(answer.status);
  setStatus(id, {...mine.find((batch) => batch.id === id)?.status, state: GONE[answer.status]});
};

const loadResults = async (id) => {
  const over = isFinal(current()), before = results.size, selection = selections;
  const answer = await call(`${id}/results?format=jsonl&after=${last}`, {ms: RESULTS_MS});
  if (!answer.ok) throw new Error(answer.status);
  const text = await answer.text();
  if (selection !== selections) return;
  text.split('\n').filter(Boolean).forEach((line) => addResult(JSON.parse(line)));
  if (results.size > before) showResults();
  complete = over && results.size === before;
};

const poll = async () => {
  busy = true;
  polledAt = Date.now();
  try {
    for (const {id} of mine.filter((batch) => !isFinal(batch) || batch.id === selected)) await refresh(id);
    const batch = current();
    if (batch && isGone(batch)) complete = true;
    else if (batch) await loadResults(batch.id);
    pause = POLL_MS;
  } catch (error) {
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  } finally {
    busy = false;
    show();
  }
};

const isDue = () => !busy && Date.now() - polledAt > pause && (mine.some((batch) => !isFinal(batch)) || (selected && !complete));

// Batches that the server cannot store now are refused anyway; this says so before an upload.
const checkOff = async () => {
  checkedAt = Date.now();
  try {
    const reason = (await (await fetch('status', {cache: 'no-store'})).json()).batches_off;
    write('off', words[`off.${reason}`]);
    find('.batch-off').hidden = !words[`off.${reason}`];
    find('.batch-new').hidden = !find('.batch-off').hidden;
  } catch (error) {
    // The poll of a batch says that the server cannot be reached.
  }
};

// ---- upload ----

const hex = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');

const showUpload = (text, value) => {
  find('.batch-upload').hidden = !text;
  find('.batch-drop input').disabled = Boolean(text);
  write('upload', text);
  const bar = find('.batch-upload progress');
  if (value < 1) bar.value = value;
  else bar.removeAttribute('value');  // the server reads the list: no share of it is known
};

const refuse = (detail, columns = []) => {
  showUpload('');
  find('.batch-refused').hidden = false;
  find('.batch-refused [data-do="again"]').hidden = !upload;
  write('refused', detail);
  write('columns-found', columns.length ? say('columns_found', {columns: columns.join(', ')}) : '');
  if (!columns.length) return;
  find('.batch-how details').open = true;
  find('#batch-columns').replaceChildren(...columns.map((name) => Object.assign(make('option'), {value: name})));
};

const accept = (status) => {
  showUpload('');
  write('news', say('uploaded', {name: upload.file.name}));
  const added = {id: status.id, name: upload.file.name, when: Date.now(), status};
  upload = null;
  store((all) => [added, ...all.filter((batch) => batch.id !== added.id)]);
  select(added.id);
  find('[data-text="name"]').focus();
};

const answered = (request) => {
  const answer = parsed(request.responseText);
  if (request.status === 202) return accept(answer);
  if (request.status < 500) upload.key = hex();  // refused; a proxy's error leaves open whether the file was accepted
  const columns = Array.isArray(answer.columns) ? answer.columns.map(String) : [];
  refuse(answer.detail ?? say('refused_status', {status: request.status}), columns);
};

// The same key makes the server return the batch that it already has, if only its answer was lost.
const send = () => {
  find('.batch-refused').hidden = true;
  const form = new FormData(), {name} = upload.file, request = upload.request = new XMLHttpRequest();
  for (const field of element.querySelectorAll('.batch-columns input')) if (field.value.trim()) form.append(field.name, field.value.trim());
  form.append('file', upload.file);
  request.open('POST', API);
  request.setRequestHeader('Idempotency-Key', upload.key);
  request.upload.onprogress = ({loaded, total}) => {
    const part = total ? loaded / total : 0;
    showUpload(part < 1 ? `${say('uploading', {name})} ${share(part)}` : say('reading'), part);
  };
  request.onload = () => answered(request);
  request.onerror = () => refuse(say('refused_lost'));
  request.onabort = () => showUpload('');
  showUpload(say('uploading', {name}), 0);
  request.send(form);
};

const choose = (files) => {
  if (!files.length || !find('.batch-upload').hidden || find('.batch-new').hidden) return;
  upload = files.length > 1 ? null : {file: files[0], key: hex()};
  if (upload) send();
  else refuse(say('one_file'));
};

// ---- actions ----

const cancel = async (id) => {
  const answer = await call(id, {method: 'DELETE'});
  if (!answer.ok && !(answer.status in GONE)) throw new Error(parsed(await answer.text()).detail ?? answer.status);
  polledAt = 0;
};

const remove = async (batch) => {
  if (!isFinal(batch)) await cancel(batch.id);
  await cancel(batch.id);  // of a batch that has ended, this deletes everything
  store((all) => all.filter((one) => one.id !== batch.id));
  select('');
  find('.batch-drop input').focus();
};

const ACTIONS = {
  stop: () => upload.request.abort(),
  again: send,
  previous: () => turnPage(-1),
  next: () => turnPage(1),
  cancel: () => confirm(say('cancel_ask')) && cancel(selected),
  remove: () => confirm(say('remove_ask')) && remove(current()),
};

element.addEventListener('click', async (event) => {
  const item = event.target.closest('[data-id]'), button = event.target.closest('[data-do]');
  if (item && item.dataset.id !== selected) select(item.dataset.id);
  if (!button) return;
  try {
    await ACTIONS[button.dataset.do]();
  } catch (error) {
    write('trouble', say('refused_action', {detail: error.message}));
  }
});

find('.batch-drop input').addEventListener('change', ({target}) => {
  choose([...target.files]);
  target.value = '';  // so that the same file can be chosen again
});

// A file dropped beside the drop zone would replace the page.
for (const kind of ['dragenter', 'dragover', 'dragleave', 'drop']) {
  element.addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes('Files')) return;
    event.preventDefault();
    find('.batch-drop').classList.toggle('batch-over', ['dragenter', 'dragover'].includes(kind));
    if (kind === 'drop') choose([...event.dataTransfer.files]);
  });
}

addEventListener('beforeunload', (event) => {
  if (!find('.batch-upload').hidden) event.preventDefault();
});
addEventListener('storage', (event) => {
  if (event.key !== STORED) return;
  mine = readStored();
  show();
});

mine = readStored();
showResults();
if (mine.length) select(mine[0].id);
const timer = setInterval(() => {
  if (!element.isConnected) return clearInterval(timer);
  if (!element.offsetParent || document.hidden) return;
  if (Date.now() - checkedAt > LONGEST_PAUSE_MS) checkOff();
  if (isDue()) poll();
}, 250);
