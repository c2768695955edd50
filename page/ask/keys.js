// The buttons of rows and groups, and the keyboard.
const copied = async (pressed, text) => {
  const done = await copying.copy(text).then(() => 'rows.copied', () => 'rows.not_copied');
  say('');
  say(words[done]);
  pressed.dataset.done = words[done];
  setTimeout(() => { delete pressed.dataset.done; }, 1500);
};

const edit = (row) => {
  row.editing = true;
  drawRow(row);
  const editor = row.element.querySelector('textarea');
  editor.focus();
  editor.select();
};

const endEdit = (row) => {
  row.editing = false;
  drawRow(row);
  row.element.focus();
};

// The answer of a sentence stays with it: the edited sentence is a row of its own. A row without a verdict goes.
const askEdited = (row) => {
  const text = row.element.querySelector('textarea').value;
  if (!text.trim()) return;
  endEdit(row);
  const asked = ask(row.group, text, row.premise);
  if (row.answer?.state !== 'verdict') discard([row]);
  activate(asked);
};

const removeRow = (row) => {
  const rows = shownRows(), at = rows.indexOf(row);
  const next = rows[at + 1] ?? rows[at - 1];
  discard([row]);
  say(words['rows.deleted']);
  if (next) activate(next); else field().focus();
};

const clearAll = (here = true) => {
  groups.flatMap((group) => [...group.rows]).flatMap(forget);
  queue.length = 0;
  window.ofa.corrected();
  if (here) stored.clear().catch(unstored);
};

const ROW = {
  edit: (row) => edit(row),
  again: (row) => again(row),
  cancel: (row) => endEdit(row),
  delete: (row) => removeRow(row),
  json: (row, pressed) => copied(pressed, copying.json(copying.plain(row.group, row))),
  curl: (row, pressed) => copied(pressed, copying.curl(row, access)),
};
const GROUP = {
  use: (group) => useGroup(group),
  toggle: (group) => {
    group.open = !group.open;
    draw();
  },
};
const ALL = {
  all: (pressed) => copied(pressed, copying.json(groups.flatMap((group) => group.rows.map((row) => copying.plain(group, row))))),
  clear: () => {
    clearAll();
    say(words['rows.cleared']);
    field().focus();
  },
};

const groupAt = (target) => groups.find((group) => group.element.contains(target));
const rowAt = (target) => groupAt(target)?.rows.find((row) => row.element.contains(target));

host.addEventListener('click', (event) => {
  const row = rowAt(event.target), pressed = event.target.closest('[data-do]');
  if (row && row !== active) {
    active = row;
    draw();
  }
  const action = pressed?.dataset.do;
  if (action in ROW) ROW[action](row, pressed);
  else if (action in GROUP) GROUP[action](groupAt(pressed));
  else if (action in ALL) ALL[action](pressed);
});

host.addEventListener('submit', (event) => {
  event.preventDefault();
  askEdited(rowAt(event.target));
});

host.addEventListener('keydown', (event) => {
  const row = rowAt(event.target);
  if (!row || event.isComposing || event.altKey) return;
  const {key} = event, rows = shownRows(), at = rows.indexOf(row);
  const own = event.target === row.element;
  const to = {ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1}[key];
  const modified = event.ctrlKey || event.metaKey || event.shiftKey;
  if (row.editing && key === 'Escape') endEdit(row);
  else if (row.editing && key === 'Enter' && !event.shiftKey && event.target.matches('textarea')) askEdited(row);
  else if (row.editing || modified) return;
  else if (to !== undefined) activate(rows[Math.min(Math.max(to, 0), rows.length - 1)]);
  else if (own && (key === 'Enter' || key === 'F2')) edit(row);
  else if (own && key === 'Delete') removeRow(row);
  else return;
  event.preventDefault();
  event.stopPropagation();
});

document.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
  if (!element.checkVisibility()) return;
  event.preventDefault();
  event.stopPropagation();
  const row = rowAt(event.target);
  if (row?.editing) askEdited(row); else document.querySelector('#judge').click();
}, true);
